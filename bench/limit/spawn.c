/* The limit for subprocesses: posix_spawn(3) and waitpid(2), one child after another.
 *
 *     spawn COUNT      prints children a second, and the share of time it had a processor
 */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    char *words[] = {"/bin/true", NULL};
    int count = argc > 1 ? atoi(argv[1]) : 100;
    double began = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID), passed;
    for (int i = 0; i < count; i++) {
        pid_t child;
        int error = posix_spawn(&child, words[0], NULL, NULL, words, environ);
        if (error) {
            fprintf(stderr, "posix_spawn: %s\n", strerror(error));
            return 1;
        }
        waitpid(child, NULL, 0);
    }
    passed = now(CLOCK_MONOTONIC) - began;
    printf("%f %f\n", count / passed, (now(CLOCK_PROCESS_CPUTIME_ID) - used) / passed);
    return 0;
}
