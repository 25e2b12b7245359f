"""Handles (callbacks in the queue) and timers.

Most timers are set in the order in which they are due, such as timeouts of the same length. These
are in a sorted array, the run, where the first is taken and the next is appended in constant time.
The others are in a heap. A cancelled timer is removed immediately, so timeouts that are set and
cancelled for each request do not accumulate.
"""

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_New
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport ceil
from libc.stdint cimport INT64_MAX, int64_t, uint64_t

from noria._core.callbacks cimport empty_handle, raise_if, run_callback
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport Ring, record_call
from noria._core.sys cimport coarse_ns, monotonic_ns

from _thread import allocate_lock

cdef enum:
    NOWHERE = -1
    FIRST_DEFERRED = -2         # the second is at -3, and so on
    LONG_TURN_NS = 20_000_000   # nanoseconds
    MAX_SHIFTED = 4             # entries of the run that may move to insert one before them
    MIN_HOLES = 32              # in the run, before it is compacted

# Later deadlines do not fit in 64 bits of nanoseconds.
cdef double MAX_SECONDS = 9.2e9
# Since an earlier deadline, the time that has passed may not fit.
cdef double MIN_SECONDS = -4e9

cdef extern from *:
    """
    static inline int noria_no_context(void) {
        return PyThreadState_Get()->context == NULL;
    }
    """
    bint noria_no_context() noexcept

# Freed timers are kept for reuse, as CPython keeps its small objects: a timeout for each request is
# set and cancelled without calls of the allocator.
cdef extern from *:
    """
    #define NoriaTimer struct __pyx_obj_5noria_5_core_6timers_Timer     /* by Cython's rule */
    #define NORIA_SPARES 1024
    #define NORIA_WEAKREFS(o) \
        ((PyObject **)((char *)(o) + Py_TYPE(o)->tp_weaklistoffset))
    static PyObject *noria_spares[NORIA_SPARES];
    static int noria_spare_count;
    static destructor noria_free_timer;

    #define noria_spare(o) do {                                    \
        NoriaTimer *timer = (NoriaTimer *)(o);                      \
        if (*NORIA_WEAKREFS(o) != NULL) PyObject_ClearWeakRefs(o);  \
        noria_empty(timer);                                         \
        if (noria_spare_count < NORIA_SPARES) {                     \
            noria_spares[noria_spare_count++] = (PyObject *)(o);    \
        } else {                                                    \
            noria_free_timer(o);                                    \
        }                                                           \
    } while (0)

    static void noria_keep_spares(PyObject *type, destructor let_go) {
    #ifndef Py_GIL_DISABLED   /* the spares have no lock but the GIL */
        noria_free_timer = ((PyTypeObject *)type)->tp_dealloc;
        ((PyTypeObject *)type)->tp_dealloc = let_go;
    #endif
    }

    static PyObject *noria_take_spare(PyObject *type) {
        return PyObject_Init(noria_spares[--noria_spare_count], (PyTypeObject *)type);
    }
    """
    ctypedef void (*destructor)(PyObject *) noexcept
    void noria_spare(PyObject *timer) noexcept
    void noria_keep_spares(object kind, destructor release) noexcept
    object noria_take_spare(object kind)
    int noria_spare_count


# Stands for a new, empty context, as that of the calling thread was.
cdef object EMPTY_CONTEXT = Ellipsis


cdef object current_context():
    """A copy of the current context; EMPTY_CONTEXT if the thread has none.

    Most threads never have a context: 10⁵ calls from one of them do not make 10⁵ copies.
    """
    return EMPTY_CONTEXT if noria_no_context() else PyContext_CopyCurrent()


# The garbage collector does not track handles, as each drops its references when it has run or is
# cancelled: a queue of 10⁵ handles is not traversed by each collection.
@cython.no_gc
cdef class Handle(Target):
    """A callback in the queue, like asyncio.Handle.

    After it has run, it holds no reference to the callback, its arguments and its context.
    """

    cdef int handle(self, Event *event) except -1:
        """Run the callback; `event` is NULL for the handle of add_reader, which may run again."""
        cdef int failed
        if self.dropped:
            return 0
        if event == NULL:
            return self.run_again()
        # `drop` keeps the references meanwhile, and the queue's event the handle.
        self.running = True
        failed = run_callback(<PyObject *>self.callback, <PyObject *>self.args, self.single,
                              <PyObject *>self.context, <PyObject *>EMPTY_CONTEXT)
        self.running = False
        # The error report names the callback, and drops it.
        raise_if(failed)
        empty_handle(<PyObject *>self)
        return 0

    cdef int record_begin(self, Event *event, Ring *ring, uint64_t tail) noexcept:
        record_call(ring, <PyObject *>self.callback, <PyObject *>self.args, tail, RecordKind.CALL)
        return 0

    cdef int run_again(self) except -1:
        # Referenced here, as the callback may cancel its handle.
        cdef object callback = self.callback
        cdef object context = self.context
        cdef object args = self.args
        return raise_if(run_callback(<PyObject *>callback, <PyObject *>args, self.single,
                                     <PyObject *>context, <PyObject *>EMPTY_CONTEXT))

    cdef int clear(self) noexcept:
        empty_handle(<PyObject *>self)
        return 0

    cdef object args_tuple(self):
        return (self.args,) if self.single else self.args

    cdef int drop(self) except -1:
        self.dropped = True
        if not self.running:
            empty_handle(<PyObject *>self)
        return 0

    @cython.binding(False)
    def cancel(self):
        """Keep the callback from running. Has no effect after it has run."""
        self.drop()

    @cython.binding(False)
    def cancelled(self):
        """Whether `cancel` was called."""
        return self.dropped != 0

    @property
    def __class__(self):
        # For isinstance: the layout of asyncio's handles rules out inheriting from them.
        import asyncio
        return asyncio.Handle

    def get_context(self):
        """The contextvars.Context in which the callback runs; None for the loop's."""
        if self.context is EMPTY_CONTEXT:
            self.context = PyContext_New()
        return self.context

    @property
    def _callback(self):
        return self.callback

    @property
    def _args(self):
        return self.args_tuple()

    @property
    def _cancelled(self):
        return self.dropped != 0

    @property
    def _context(self):
        return self.get_context()

    @property
    def _loop(self):
        # A handle does not store its loop, which would cost each call a reference: the running
        # loop is the one.
        import asyncio
        return asyncio._get_running_loop()

    def __repr__(self):
        name = type(self).__name__
        if self.dropped:
            return f"<{name} cancelled>"
        return f"<{name} {getattr(self.callback, '__qualname__', None) or repr(self.callback)}()>"


@cython.final
@cython.no_gc
cdef class ThreadSafeHandle(Handle):
    """A callback whose `cancel` and `cancelled` block other threads while it runs.

    After `cancel` returns in another thread, the callback has ended or never runs. In the thread
    that runs the callback neither method blocks. As the handles that asyncio's
    call_soon_threadsafe returns from Python 3.14 on.
    """

    # asyncio's handle has an RLock. Here the GIL protects the fields, so a lock is made only where
    # a thread has to wait: one for each such thread, released when the callback has ended.

    cdef int handle(self, Event *event) except -1:
        self.runner = PyThread_get_thread_ident()
        self.runs = True
        try:
            Handle.handle(self, event)
        except (KeyboardInterrupt, SystemExit):
            self.finish()
            raise
        # Any other exception leaves it running until the loop has reported it and calls `finish`.
        self.finish()
        return 0

    cdef int finish(self) except -1:
        """The callback has ended: resume the threads that wait for that."""
        self.runs = False
        waiters, self.waiters = self.waiters, None
        if waiters is not None:
            for waiter in waiters:
                waiter.release()
        return 0

    cdef int wait_until_done(self) except -1:
        cdef list waiters
        if not self.runs or self.runner == PyThread_get_thread_ident():
            return 0
        waiters, waiter = [], allocate_lock()
        waiter.acquire()
        # Checked again, as making these may have let another thread run. No thread switch is
        # possible between this check and the wait.
        if self.runs:
            if self.waiters is None:
                self.waiters = waiters
            self.waiters.append(waiter)
            waiter.acquire()
        return 0

    @cython.binding(False)
    def cancel(self):
        """Keep the callback from running, or wait until it has ended if another thread runs it."""
        self.wait_until_done()
        self.drop()

    @cython.binding(False)
    def cancelled(self):
        """Whether `cancel` was called; waits while another thread runs the callback."""
        self.wait_until_done()
        return self.dropped != 0

    @property
    def __class__(self):
        from asyncio import Handle, events
        return getattr(events, "_ThreadSafeHandle", Handle)


@cython.final
@cython.no_gc
cdef class Timer(Handle):
    """A callback that is due at a time, like asyncio.TimerHandle."""

    def __cinit__(self):
        self.position = NOWHERE

    cdef int record_begin(self, Event *event, Ring *ring, uint64_t tail) noexcept:
        record_call(ring, <PyObject *>self.callback, <PyObject *>self.args, tail,
                    RecordKind.TIMER_CALL)
        return 0

    cdef int drop(self) except -1:
        if self.position != NOWHERE:
            (<Timers>self.timers).remove(self)
        return Handle.drop(self)

    @property
    def __class__(self):
        import asyncio
        return asyncio.TimerHandle

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return <Py_hash_t>(<size_t><PyObject *>self >> 4)

    def __lt__(self, Timer other):
        return self.when() < other.when()

    def __le__(self, Timer other):
        return self.when() <= other.when()

    def __gt__(self, Timer other):
        return self.when() > other.when()

    def __ge__(self, Timer other):
        return self.when() >= other.when()

    @property
    def _when(self):
        return self.when()

    @property
    def _scheduled(self):
        return self.position != NOWHERE

    @cython.binding(False)
    def when(self):
        """When the timer is due, in seconds of the loop's `time()`."""
        if self.position < NOWHERE:
            (<Timers>self.timers).arm_deferred()
        return self.seconds


cdef void spare(PyObject *timer) noexcept:
    noria_spare(timer)

noria_keep_spares(Timer, spare)


cdef Timer new_timer():
    """A new timer, or a freed one."""
    cdef Timer timer
    if not noria_spare_count:
        return Timer.__new__(Timer)
    timer = <Timer>noria_take_spare(Timer)
    timer.dropped = False
    timer.position = NOWHERE
    return timer


cdef class Timers:
    """The timers that are not due yet."""

    def __dealloc__(self):
        self.clear()
        PyMem_RawFree(self.run)
        PyMem_RawFree(self.heap)
        PyMem_RawFree(self.deferred)

    cdef int clear(self) except -1:
        while self.run_end > self.run_first:
            self.run_end -= 1
            if self.run[self.run_end].timer != NULL:
                drop_timer(<Timer>self.run[self.run_end].timer)
        self.run_holes = 0
        while self.heap_count:
            self.heap_count -= 1
            drop_timer(<Timer>self.heap[self.heap_count].timer)
        self.count = 0
        while self.deferred_count:
            self.deferred_count -= 1
            drop_timer(<Timer>self.deferred[self.deferred_count])
        return 0

    cdef int add(self, Timer timer) except -1:
        self.order += 1
        timer.order = self.order
        timer.timers = <void *>self
        self.put(timer)
        Py_INCREF(timer)
        return 0

    cdef int add_deferred(self, Timer timer, double delay) except -1:
        """Add a timer whose delay begins at the end of this turn.

        Most of them are timeouts that are cancelled before: these cost neither a reading of the
        clock, which is read once for all of them, nor an operation on the heap.
        """
        cdef void **deferred
        cdef Py_ssize_t capacity
        if self.deferred_count == self.deferred_capacity:
            capacity = self.deferred_capacity * 2 + 64
            deferred = <void **>PyMem_RawRealloc(self.deferred, capacity * sizeof(void *))
            if deferred == NULL:
                raise MemoryError
            self.deferred = deferred
            self.deferred_capacity = capacity
        self.order += 1
        timer.order = self.order
        timer.seconds = delay
        timer.when_ns = coarse_ns()
        timer.timers = <void *>self
        timer.position = FIRST_DEFERRED - self.deferred_count
        self.deferred[self.deferred_count] = <void *>timer
        self.deferred_count += 1
        Py_INCREF(timer)
        return 0

    cdef int arm_deferred(self) except -1:
        """Move the deferred timers to the heap: their delays begin."""
        cdef Timer timer
        cdef int64_t now = monotonic_ns()
        cdef Py_ssize_t i, last = self.deferred_count - 1
        # The first is taken first, so that timers of the same delay stay in the run.
        for i in range(self.deferred_count // 2):
            self.deferred[i], self.deferred[last - i] = self.deferred[last - i], self.deferred[i]
        for i in range(self.deferred_count):
            (<Timer>self.deferred[i]).position = FIRST_DEFERRED - i
        while self.deferred_count:
            timer = <Timer>self.deferred[self.deferred_count - 1]
            # After a long turn, the delay begins when the timer was set, by the coarse clock.
            timer.seconds += min(now, timer.when_ns + LONG_TURN_NS) / 1e9
            timer.when_ns = nanoseconds(timer.seconds)
            self.put(timer)
            self.deferred_count -= 1
        return 0

    cdef int put(self, Timer timer) except -1:
        cdef Entry *heap
        cdef Entry entry
        cdef Py_ssize_t capacity, i, j
        entry.when = timer.when_ns
        entry.order = timer.order
        entry.timer = <void *>timer
        if self.run_end == self.run_capacity:
            self.make_room_in_run()
        # A few timers that are due much later, at the end of the run, are moved.
        i = self.run_end
        while i > self.run_first and i + MAX_SHIFTED >= self.run_end \
                and earlier(&entry, &self.run[i - 1]):
            i -= 1
        if i + MAX_SHIFTED >= self.run_end:
            for j in range(self.run_end, i, -1):
                self.run[j] = self.run[j - 1]
                if self.run[j].timer != NULL:
                    (<Timer>self.run[j].timer).position = j
            self.run[i] = entry
            timer.position = i
            timer.in_run = True
            self.run_end += 1
            self.count += 1
            return 0
        if self.heap_count == self.heap_capacity:
            capacity = self.heap_capacity * 2 + 64
            heap = <Entry *>PyMem_RawRealloc(self.heap, capacity * sizeof(Entry))
            if heap == NULL:
                raise MemoryError
            self.heap = heap
            self.heap_capacity = capacity
        timer.in_run = False
        self.count += 1
        self.heap_count += 1
        self.sift_up(self.heap_count - 1, entry)
        return 0

    cdef int make_room_in_run(self) except -1:
        cdef Entry *run
        cdef Py_ssize_t capacity = self.run_capacity * 2 + 64
        # Half of the array is free or has no timers: this is rare enough to move the others.
        if (self.run_first + self.run_holes) * 2 > self.run_capacity:
            self.compact_run()
            return 0
        run = <Entry *>PyMem_RawRealloc(self.run, capacity * sizeof(Entry))
        if run == NULL:
            raise MemoryError
        self.run = run
        self.run_capacity = capacity
        return 0

    cdef void compact_run(self) noexcept:
        cdef Py_ssize_t i, end = 0
        for i in range(self.run_first, self.run_end):
            if self.run[i].timer != NULL:
                self.run[end] = self.run[i]
                (<Timer>self.run[end].timer).position = end
                end += 1
        self.run_first = self.run_holes = 0
        self.run_end = end

    cdef int remove(self, Timer timer) except -1:
        cdef Py_ssize_t i = timer.position
        if i == NOWHERE:
            return 0
        timer.position = NOWHERE
        if i < NOWHERE:
            self.deferred_count -= 1
            if FIRST_DEFERRED - i != self.deferred_count:
                self.deferred[FIRST_DEFERRED - i] = self.deferred[self.deferred_count]
                (<Timer>self.deferred[FIRST_DEFERRED - i]).position = i
        elif timer.in_run:
            self.remove_from_run(i)
        else:
            self.remove_from_heap(i)
        Py_DECREF(timer)
        return 0

    cdef void remove_from_run(self, Py_ssize_t i) noexcept:
        self.count -= 1
        self.run[i].timer = NULL
        self.run_holes += 1
        if i == self.run_first:
            while self.run_first < self.run_end and self.run[self.run_first].timer == NULL:
                self.run_first += 1
                self.run_holes -= 1
        elif i == self.run_end - 1:
            while self.run[self.run_end - 1].timer == NULL:
                self.run_end -= 1
                self.run_holes -= 1
        elif self.run_holes > MIN_HOLES \
                and self.run_holes * 2 > self.run_end - self.run_first:
            self.compact_run()
        if self.run_first == self.run_end:
            self.run_first = self.run_end = 0

    cdef void remove_from_heap(self, Py_ssize_t i) noexcept:
        cdef Entry last
        self.count -= 1
        self.heap_count -= 1
        if i != self.heap_count:
            last = self.heap[self.heap_count]
            if i > 0 and earlier(&last, &self.heap[(i - 1) >> 1]):
                self.sift_up(i, last)
            else:
                self.sift_down(i, last)

    cdef int64_t next_when(self) noexcept:
        """When the first timer is due; `count` is not 0."""
        if self.run_first == self.run_end:
            return self.heap[0].when
        if self.heap_count == 0 or self.run[self.run_first].when < self.heap[0].when:
            return self.run[self.run_first].when
        return self.heap[0].when

    cdef Timer pop_due(self, int64_t now):
        """Remove and return the first timer if it is due, else None."""
        cdef Entry *first = NULL
        cdef Timer timer
        if self.run_first != self.run_end:
            first = &self.run[self.run_first]
        if self.heap_count and (first == NULL or earlier(&self.heap[0], first)):
            first = &self.heap[0]
        if first == NULL or first.when > now:
            return None
        timer = <Timer>first.timer
        self.remove(timer)
        return timer

    cdef void sift_up(self, Py_ssize_t i, Entry entry) noexcept:
        cdef Py_ssize_t parent
        while i > 0:
            parent = (i - 1) >> 1
            if not earlier(&entry, &self.heap[parent]):
                break
            self.heap[i] = self.heap[parent]
            (<Timer>self.heap[i].timer).position = i
            i = parent
        self.heap[i] = entry
        (<Timer>entry.timer).position = i

    cdef void sift_down(self, Py_ssize_t i, Entry entry) noexcept:
        cdef Py_ssize_t child
        while True:
            child = 2 * i + 1
            if child >= self.heap_count:
                break
            if child + 1 < self.heap_count and earlier(&self.heap[child + 1], &self.heap[child]):
                child += 1
            if not earlier(&self.heap[child], &entry):
                break
            self.heap[i] = self.heap[child]
            (<Timer>self.heap[i].timer).position = i
            i = child
        self.heap[i] = entry
        (<Timer>entry.timer).position = i


cdef int drop_timer(Timer timer) except -1:
    timer.position = NOWHERE
    timer.clear()
    Py_DECREF(timer)
    return 0


cdef int64_t nanoseconds(double seconds) noexcept:
    """The deadline in nanoseconds, limited to what the loop can compute with."""
    if seconds >= MAX_SECONDS:
        return INT64_MAX
    # Also true for NaN, which is then due at once.
    if not seconds > MIN_SECONDS:
        seconds = MIN_SECONDS
    return <int64_t>ceil(seconds * 1e9)


cdef inline bint earlier(Entry *a, Entry *b) noexcept:
    return a.when < b.when or (a.when == b.when and a.order < b.order)
