-- wrk asks for /small/00 to /small/99 in turn, and says the 99th percentile at its end.
local requests, at = {}, 0

function init()
   for i = 0, 99 do
      requests[i] = wrk.format("GET", string.format("/small/%02d", i))
   end
end

function request()
   at = (at + 1) % 100
   return requests[at]
end

function done(_, latency)
   io.write(string.format("p99 %d us\n", latency:percentile(99)))
end
