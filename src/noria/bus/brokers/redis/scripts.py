"""The Lua scripts that run in the server, each atomically.

They need Redis 6.2. Times are the server's, in milliseconds since 1970. A batch of events crosses
the connection as two strings, the second with all bodies: the client then parses two replies, and
not several for each event.

When the server has no memory left (maxmemory), it refuses the commands of a script that take
memory, unless the script has written before. Scripts that workers need to empty the server begin
with a command that writes and takes none, marked "allow-oom": the flag of that name needs Redis 7.
"""

from __future__ import annotations

import hashlib

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Schedules an event: stream to which it goes, name of the counter, attempts made, body, due time.
SCHEDULE = """
local function schedule(delayed, counters, sequence, stream, counter, attempts, body, due)
    local number = string.format('%016d', redis.call('INCR', sequence))
    local member = number .. cmsgpack.pack({stream, counter, attempts, body})
    redis.call('ZADD', delayed, due, member)
    redis.call('HINCRBY', counters, counter, 1)
end
"""

# Returns the event of an entry, and how often it was given out before: the fields `e` and `a`, in
# any order. If there is no `e`, the event is all fields in JSON, a list, which is buried.
ENTRY = """
local function event_of(fields)
    local body, attempts
    for i = 1, #fields, 2 do
        if fields[i] == 'e' then
            body = fields[i + 1]
        elseif fields[i] == 'a' and string.match(fields[i + 1], '^%d+$') then
            attempts = #fields[i + 1] <= 6 and tonumber(fields[i + 1])
        end
    end
    return body or cjson.encode(fields), attempts or 0
end
"""

# KEYS: delayed, counters, sequence. ARGV: milliseconds that events are kept, prefix of the ids,
# milliseconds that ids are kept; then for each event: stream, options, body. Options are empty, or
# "DELAY COUNTER ID", the id empty if it need not be checked. Returns the index and the error of
# each event that was refused.
PUBLISH = (
    NOW
    + SCHEDULE
    + """
local oldest = string.format('%d', math.max(0, now - ARGV[1]))
local refused = {}
for i = 4, #ARGV, 3 do
    local stream, options, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local delay = 0
    local stored = true
    local id = ''
    if options ~= '' then
        local first, counter
        first, counter, id = string.match(options, '^(%d+) (%S+) (.*)$')
        delay = tonumber(first)
        if id ~= '' then
            stored = redis.call('SET', ARGV[2] .. id, '', 'NX', 'PX', ARGV[3])
        end
        if stored and delay > 0 then
            schedule(KEYS[1], KEYS[2], KEYS[3], stream, counter, 0, body, now + delay)
        end
    end
    if stored and delay == 0 then
        local reply = redis.pcall('XADD', stream, 'MINID', '~', oldest, '*', 'e', body)
        if reply.err then
            if id ~= '' then redis.call('DEL', ARGV[2] .. id) end
            refused[#refused + 1] = {(i - 4) / 3, reply.err}
        end
    end
end
return refused
"""
)

# Moves what is due to its streams. KEYS: delayed, counters. ARGV: limit, milliseconds until what
# was refused is tried again. Returns the number that were due, the milliseconds until the next one
# is due, or -1, and the last error, or ''.
MOVE = (
    NOW
    + """
redis.call('ZREM', KEYS[1], '')  -- allow-oom
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local problem = ''
for _, member in ipairs(due) do
    local stream, counter, attempts, body = unpack(cmsgpack.unpack(string.sub(member, 17)))
    local reply
    if attempts > 0 then
        reply = redis.pcall('XADD', stream, '*', 'e', body, 'a', attempts)
    else
        reply = redis.pcall('XADD', stream, '*', 'e', body)
    end
    if reply.err then
        problem = reply.err
        redis.call('ZADD', KEYS[1], now + ARGV[2], member)
    else
        if redis.call('HINCRBY', KEYS[2], counter, -1) <= 0 then
            redis.call('HDEL', KEYS[2], counter)
        end
        redis.call('ZREM', KEYS[1], member)
    end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {#due, first[2] and math.max(0, first[2] - now) or -1, problem}
"""
)

# Stores dead letters. KEYS: their stream. ARGV: letters. Returns '', or the error of a server that
# has no memory left: the events of the letters are put off then, so that others can be handled.
BURY = """
for _, letter in ipairs(ARGV) do
    local reply = redis.pcall('XADD', KEYS[1], '*', 'e', letter)
    if reply.err then
        return string.find(reply.err, 'OOM', 1, true) and reply.err or reply
    end
end
return ''
"""

# Registers a type, so that `lag` and subscribers of all types find it. KEYS: types, keyed types,
# stream of what is new. ARGV: type, '1' if it has keys.
REGISTER = """
redis.call('SREM', KEYS[1], '')  -- allow-oom
local added = redis.call('SADD', KEYS[1], ARGV[1])
if ARGV[2] == '1' then
    added = added + redis.call('SADD', KEYS[2], ARGV[1])
end
if added > 0 then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 't', ARGV[1], 'k', ARGV[2])
end
return added
"""

# Creates a group, and removes consumers that ended long ago with nothing pending. KEYS: retry
# stream, streams. ARGV: group, first entry ('0' or '$'), milliseconds of idleness.
SUBSCRIBE = """
redis.call('XDEL', KEYS[1], '0-1')  -- allow-oom
for i, stream in ipairs(KEYS) do
    local start = i == 1 and '0' or ARGV[2]
    local made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[1], start, 'MKSTREAM')
    if type(made) == 'table' and made.err then
        if not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
        for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1])) do
            local about = {}
            for j = 1, #row, 2 do about[row[j]] = row[j + 1] end
            if about.pending == 0 and about.idle > tonumber(ARGV[3]) then
                redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], about.name)
            end
        end
    end
end
return 1
"""

# Claims up to a number of events. KEYS: leases, streams. ARGV: group, consumer, limit; then for
# each stream: its partition or '', '1' if new events may be claimed after the listed ones, the
# least idle milliseconds of the listed ones, their number, and pairs of id and deliveries so far.
# Returns "STREAM ID LENGTH ATTEMPT ..." and the bodies; if there is nothing, two empty strings and
# the id of each stream's last entry.
TAKE = (
    ENTRY
    + """
local group, me, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
local head, bodies = {}, {}
local function add(source, id, fields, count)
    local body, before = fields[2], 0
    if #fields ~= 2 or fields[1] ~= 'e' then body, before = event_of(fields) end
    head[#head + 1] = string.format('%d %s %d %d', source, id, #body, count + before)
    bodies[#bodies + 1] = body
    left = left - 1
end
local at = 4
for i = 2, #KEYS do
    local stream = KEYS[i]
    local partition, fresh, idle, listed = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local first = at + 4
    at = first + 2 * listed
    if left > 0 and (partition == '' or redis.call('HGET', KEYS[1], partition) == me) then
        local wanted = math.min(left, listed)
        if wanted > 0 then
            local ids, counts = {}, {}
            for j = 0, wanted - 1 do
                ids[j + 1] = ARGV[first + 2 * j]
                counts[ids[j + 1]] = ARGV[first + 2 * j + 1]
            end
            local claimed = redis.call('XCLAIM', stream, group, me, idle, unpack(ids))
            for _, entry in ipairs(claimed) do
                if entry and entry[2] then
                    add(i - 2, entry[1], entry[2], counts[entry[1]] + 1)
                    counts[entry[1]] = nil
                end
            end
            -- What was trimmed from the stream cannot be claimed any more.
            for id, _ in pairs(counts) do
                if #redis.call('XRANGE', stream, id, id) == 0 then
                    redis.call('XACK', stream, group, id)
                end
            end
        end
        if left > 0 and fresh == '1' and wanted == tonumber(listed) then
            local found = redis.call(
                'XREADGROUP', 'GROUP', group, me, 'COUNT', left, 'STREAMS', stream, '>')
            if found then
                for _, entry in ipairs(found[1][2]) do add(i - 2, entry[1], entry[2], 1) end
            end
        end
    end
end
local reply = {table.concat(head, ' '), table.concat(bodies)}
if #head == 0 then
    for i = 2, #KEYS do
        local last = redis.call('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)
        reply[#reply + 1] = last[1] and last[1][1] or '0-0'
    end
end
return reply
"""
)

# Returns events without a key to the group. KEYS: stream, retry stream, delayed, counters,
# sequence. ARGV: group, consumer, delay in milliseconds, counter; then pairs of id and attempts.
NAK = (
    NOW
    + SCHEDULE
    + ENTRY
    + """
for i = 5, #ARGV, 2 do
    local id = ARGV[i]
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
    if pending and pending[2] == ARGV[2] then
        local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
        redis.call('XACK', KEYS[1], ARGV[1], id)
        local body = entry and event_of(entry[2])
        local attempts = tonumber(ARGV[i + 1])
        if body and ARGV[3] == '0' then
            redis.call('XADD', KEYS[2], '*', 'e', body, 'a', attempts)
        elseif body then
            schedule(KEYS[3], KEYS[4], KEYS[5], KEYS[2], ARGV[4], attempts, body, now + ARGV[3])
        end
    end
end
return 1
"""
)

# Renews claims. KEYS: leases, then the stream of each event. ARGV: group, consumer; then for each
# event: partition or '', id. Returns the indexes of those that the consumer does not hold.
EXTEND = """
local group, me = ARGV[1], ARGV[2]
local lost = {}
for i = 2, #KEYS do
    local partition, id = ARGV[2 * i - 1], ARGV[2 * i]
    local pending = redis.call('XPENDING', KEYS[i], group, id, id, 1)[1]
    local held = pending and pending[2] == me
    if held and partition ~= '' then
        held = redis.call('HGET', KEYS[1], partition) == me
    end
    if held then
        redis.call('XCLAIM', KEYS[i], group, me, 0, id, 'JUSTID')
    else
        lost[#lost + 1] = i - 2
    end
end
return lost
"""

# Renews the leases of a consumer and shares the partitions among the consumers of the group.
# KEYS: leases (partition to consumer), live consumers and sharing consumers (by end of their
# leases), keyed types, the streams of the partitions. ARGV: group, consumer, milliseconds of the
# lease, '1' if the consumer shall have partitions, type.
# Returns the partitions that it holds, and those of them that it must give back when it can.
TICK = (
    NOW
    + """
local group, me, sharing = ARGV[1], ARGV[2], ARGV[4] == '1'
redis.call('ZREM', KEYS[2], '')  -- allow-oom
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. now)
for _, name in ipairs(expired) do
    redis.call('ZREM', KEYS[2], name)
    redis.call('ZREM', KEYS[3], name)
end
redis.call('ZADD', KEYS[2], now + ARGV[3], me)
if sharing then
    redis.call('ZADD', KEYS[3], now + ARGV[3], me)
else
    redis.call('ZREM', KEYS[3], me)
end
local keyed = redis.call('SISMEMBER', KEYS[4], ARGV[5]) + redis.call('EXISTS', KEYS[1]) > 0
-- Publishers may not know that the server has lost the set of keyed types.
for i = 5, #KEYS do
    keyed = keyed or redis.call('XLEN', KEYS[i]) > 0
end
if not keyed then return {{}, {}} end
local owners = {}
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do owners[rows[i]] = rows[i + 1] end
local mine, free = {}, {}
for number = 0, #KEYS - 5 do
    local partition = tostring(number)
    local owner = owners[partition]
    if owner == me then
        mine[#mine + 1] = number
    elseif not owner or not redis.call('ZSCORE', KEYS[2], owner) then
        free[#free + 1] = number
    end
end
local share = 0
if sharing then share = math.ceil((#KEYS - 4) / redis.call('ZCARD', KEYS[3])) end
for _, number in ipairs(free) do
    if #mine >= share then break end
    redis.call('HSET', KEYS[1], number, me)
    mine[#mine + 1] = number
end
local surplus = math.max(0, #mine - share)
local kept = {}
for _, number in ipairs(mine) do
    if surplus > 0 and redis.call('XPENDING', KEYS[number + 5], group)[1] == 0 then
        redis.call('HDEL', KEYS[1], number)
        surplus = surplus - 1
    else
        kept[#kept + 1] = number
    end
end
local leaving = {}
for i = 1, surplus do leaving[i] = kept[i] end
return {kept, leaving}
"""
)

# Returns all leases of a consumer. KEYS: leases, live consumers, sharing consumers.
# ARGV: consumer.
RELEASE = """
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
    if rows[i + 1] == ARGV[1] then redis.call('HDEL', KEYS[1], rows[i]) end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
"""

# Notes how far a consumer without a group has read: what it has not read is not trimmed. KEYS:
# readers, its hash. ARGV: its name, milliseconds for which that holds; then pairs of stream and id.
READ = (
    NOW
    + """
redis.call('ZREM', KEYS[1], '')  -- allow-oom
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""
)

# Removes what every group has acknowledged and every reader has read, except the newest. KEYS:
# lock, readers, streams. ARGV: milliseconds of the lock, milliseconds for which acknowledged events
# stay, number of streams for which they stay, what precedes a reader's name. Streams after those
# are emptied at once.
TRIM = (
    NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)  -- allow-oom
if not redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1]) then return 0 end
local function split(id)
    local first, second = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(first), tonumber(second)
end
local readers = redis.call('ZRANGE', KEYS[2], 0, -1)
local removed = 0
for i = 3, #KEYS do
    local limit, limit_sequence = now, 0
    if i - 2 <= tonumber(ARGV[3]) then limit = now - ARGV[2] end
    local function keep_from(first, second)
        if first < limit or first == limit and second < limit_sequence then
            limit, limit_sequence = first, second
        end
    end
    for _, reader in ipairs(readers) do
        local position = redis.call('HGET', ARGV[4] .. reader, KEYS[i])
        if position then
            local first, second = split(position)
            keep_from(first, second + 1)
        end
    end
    local groups = redis.pcall('XINFO', 'GROUPS', KEYS[i])
    if not groups.err and #groups > 0 then
        for _, row in ipairs(groups) do
            local about = {}
            for j = 1, #row, 2 do about[row[j]] = row[j + 1] end
            local first, second = split(about['last-delivered-id'])
            second = second + 1
            if about.pending > 0 then
                first, second = split(redis.call('XPENDING', KEYS[i], about.name)[2])
            end
            keep_from(first, second)
        end
        local oldest = string.format('%d-%d', math.max(0, limit), limit_sequence)
        removed = removed + redis.call('XTRIM', KEYS[i], 'MINID', oldest)
    end
end
return removed
"""
)

# Counts for `lag`. KEYS: the streams of a type. ARGV: the most events to count where the server
# does not know how many wait. Returns the events stored, and for each group its name, the events
# that wait (-1: unknown), and those pending.
LAG = """
local stored = 0
local names, waiting, pending = {}, {}, {}
for _, stream in ipairs(KEYS) do
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    if not groups.err then
        stored = stored + redis.call('XLEN', stream)
        for _, row in ipairs(groups) do
            local about = {}
            for j = 1, #row, 2 do about[row[j]] = row[j + 1] end
            local name = about.name
            if not waiting[name] then
                names[#names + 1] = name
                waiting[name], pending[name] = 0, 0
            end
            local lag = about.lag
            if not lag then
                local after = '(' .. about['last-delivered-id']
                lag = #redis.call('XRANGE', stream, after, '+', 'COUNT', ARGV[1])
                if lag == tonumber(ARGV[1]) then waiting[name] = -1 end
            end
            if waiting[name] >= 0 then waiting[name] = waiting[name] + lag end
            pending[name] = pending[name] + about.pending
        end
    end
end
local reply = {stored}
for _, name in ipairs(names) do
    reply[#reply + 1] = {name, waiting[name], pending[name]}
end
return reply
"""

# The position of each stream: the id of its last entry. KEYS: streams.
POSITIONS = """
local reply = {}
for i, stream in ipairs(KEYS) do
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
    reply[i] = last[1] and last[1][1] or '0-0'
end
return reply
"""

ALL = (
    PUBLISH,
    MOVE,
    BURY,
    REGISTER,
    SUBSCRIBE,
    TAKE,
    NAK,
    EXTEND,
    TICK,
    RELEASE,
    READ,
    TRIM,
    LAG,
    POSITIONS,
)

# Their names in the server, for EVALSHA.
SHA = {script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in ALL}
