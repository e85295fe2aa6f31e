/*
 * A disk that fails when it is told to: loaded by LD_PRELOAD, it lets one call, or all after it, fail below a folder.
 *
 * FAULTS_BELOW is the folder, FAULTS_CONTROL a file that all processes map: which calls are meant, and how they fail
 * (tests/support/faulty_builds.py fills it in). FAULTS_LOG gets a line for each call below the folder while `is_logging`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    _Atomic long matched;  /* calls of the kind that is meant, so far, of all processes */
    _Atomic long struck;   /* calls that failed, or wrote less */
    long fail_at;          /* the call that fails, the first being 1; 0: none */
    int error_number;      /* less than 0: the process is sent this signal instead */
    int is_short;          /* a write that is meant writes half of its bytes first */
    int is_for_good;       /* all later calls fail, of any kind */
    int is_logging;
    char operation[16];
    char pattern[256];     /* for paths below the folder, as of fnmatch */
};

enum { GO_ON, FAIL, WRITE_LESS };

static struct control *control;
static char below[PATH_MAX];
static size_t below_length;
static int log_descriptor = -1;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("FAULTS_BELOW"), *file = getenv("FAULTS_CONTROL"), *log = getenv("FAULTS_LOG");
    if (!folder || !file || !log)
        return;
    below_length = (size_t)snprintf(below, sizeof below, "%s/", folder);
    int descriptor = open(file, O_RDWR | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    log_descriptor = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    control = mapped == MAP_FAILED ? NULL : mapped;
}

static ssize_t write_really(int descriptor, const void *data, size_t size)
{
    REAL(write);
    return real(descriptor, data, size);
}

/* What becomes of a call: the path is absolute, as the engine's are. */
static int verdict(const char *operation, const char *path)
{
    if (!control || strncmp(path, below, below_length))
        return GO_ON;
    const char *inner = path + below_length;
    if (control->is_logging) {
        char line[PATH_MAX + 32];
        int size = snprintf(line, sizeof line, "%s %s\n", operation, inner);
        write_really(log_descriptor, line, (size_t)size);
    }
    if (!control->fail_at)
        return GO_ON;
    if (!strcmp(operation, "unlink") && strcmp(control->operation, "unlink")) /* a disk that takes no more lets files go */
        return GO_ON;
    if (!control->is_for_good || !atomic_load(&control->struck)) {
        if (strcmp(operation, control->operation) || fnmatch(control->pattern, inner, FNM_PATHNAME | FNM_PERIOD))
            return GO_ON;
        if (atomic_fetch_add(&control->matched, 1) + 1 != control->fail_at)
            return GO_ON;
    }
    if (!atomic_fetch_add(&control->struck, 1) && control->is_short)
        return WRITE_LESS;
    if (control->error_number < 0) /* no error, but a signal: the call is never made */
        kill(getpid(), -control->error_number);
    errno = control->error_number;
    return FAIL;
}

static int verdict_of_descriptor(const char *operation, int descriptor)
{
    char link[64], path[PATH_MAX];
    if (!control)
        return GO_ON;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0)
        return GO_ON;
    path[size] = 0;
    return verdict(operation, path);
}

static size_t half(size_t size)
{
    return size > 1 ? size / 2 : size;
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    REAL(write);
    int what = verdict_of_descriptor("write", descriptor);
    return what == FAIL ? -1 : real(descriptor, data, what == WRITE_LESS ? half(size) : size);
}

ssize_t writev(int descriptor, const struct iovec *pieces, int count)
{
    REAL(writev);
    int what = verdict_of_descriptor("write", descriptor);
    return what == FAIL ? -1 : real(descriptor, pieces, what == WRITE_LESS ? (int)half((size_t)count) : count);
}

#define POSITIONED(name, offset_type) \
    ssize_t name(int descriptor, const void *data, size_t size, offset_type place) \
    { \
        REAL(name); \
        int what = verdict_of_descriptor("write", descriptor); \
        return what == FAIL ? -1 : real(descriptor, data, what == WRITE_LESS ? half(size) : size, place); \
    }

POSITIONED(pwrite, off_t)
POSITIONED(pwrite64, off64_t)

#define OF_DESCRIPTOR(name, operation, parameters, arguments) \
    int name parameters \
    { \
        REAL(name); \
        return verdict_of_descriptor(operation, descriptor) ? -1 : real arguments; \
    }

OF_DESCRIPTOR(fsync, "fsync", (int descriptor), (descriptor))
OF_DESCRIPTOR(fdatasync, "fsync", (int descriptor), (descriptor))
OF_DESCRIPTOR(ftruncate, "ftruncate", (int descriptor, off_t size), (descriptor, size))
OF_DESCRIPTOR(ftruncate64, "ftruncate", (int descriptor, off64_t size), (descriptor, size))

int rename(const char *from, const char *to)
{
    REAL(rename);
    return verdict("rename", to) ? -1 : real(from, to);
}

int unlink(const char *path)
{
    REAL(unlink);
    return verdict("unlink", path) ? -1 : real(path);
}

/* A folder that is there already is not made: an error would be that it is there, whatever the disk does. */
int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    return access(path, F_OK) && verdict("mkdir", path) ? -1 : real(path, mode);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return flags & O_CREAT && verdict("open", path) ? -1 : real(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
