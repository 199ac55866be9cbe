/* Faults on demand, loaded before the C library: cc -shared -fPIC -O2 -o faults.so faults.c -ldl
 *
 * What strikes is said by environment variables, which are read at every call, so that a forked child may set its own:
 *
 *   FAULTS_FOLDER   only calls on files below this folder count (an absolute path)
 *   FAULTS_CALLS    only these count: a few of open (for writing), mkdir, write, sync, rename, unlink, with commas (default: all)
 *   FAULTS_POINT    strike at the call with this number, from 1 on
 *   FAULTS_ACTION   kill (SIGKILL instead of the call), after (SIGKILL after it), torn (SIGKILL after half of the bytes,
 *                   for writes; otherwise as kill), stop (SIGTERM before the call), freeze (SIGSTOP after it), or the number
 *                   of an error: the call and all later ones fail with it
 *   FAULTS_ROOM     so many bytes may be written below the folder, then ENOSPC
 *   FAULTS_TRACE    a file that gets a line per call: its name, a tab, the path
 *   FAULTS_CLOCK    a file with a number of seconds that is added to the time of day
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static atomic_long calls;
static atomic_long written;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int below(const char *folder, const char *path) {
  size_t length = strlen(folder);
  return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The absolute path of an open regular file or folder; 0 for anything else. */
static int path_of(int handle, char *path) {
  char link[64];
  struct stat status;
  if (fstat(handle, &status) != 0 || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return 1;
}

static int absolute(const char *given, char *path) {
  if (given[0] == '/') return snprintf(path, PATH_MAX, "%s", given) < PATH_MAX;
  char here[PATH_MAX];
  return getcwd(here, sizeof here) && snprintf(path, PATH_MAX, "%s/%s", here, given) < PATH_MAX;
}

static void trace(const char *call, const char *path) {
  const char *file = getenv("FAULTS_TRACE");
  if (!file) return;
  char line[PATH_MAX + 32];
  int length = snprintf(line, sizeof line, "%s\t%s\n", call, path);
  int handle = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (handle < 0) return;
  syscall(SYS_write, handle, line, (size_t)length);
  syscall(SYS_close, handle);
}

static int counts(const char *call, const char *path) {
  const char *folder = getenv("FAULTS_FOLDER"), *named = getenv("FAULTS_CALLS");
  return folder && below(folder, path) && (!named || strstr(named, call));
}

enum verdict { GO_ON, STRIKE_AFTER, FREEZE, TEAR, FAIL };

/* Count a call, and decide what becomes of it. */
static enum verdict decide(const char *call, const char *path) {
  if (!counts(call, path)) return GO_ON;
  trace(call, path);
  const char *point = getenv("FAULTS_POINT"), *action = getenv("FAULTS_ACTION");
  if (!point || !action) return GO_ON;
  long number = atomic_fetch_add(&calls, 1) + 1, wanted = atol(point);
  int error = atoi(action);
  if (error && number >= wanted) {
    errno = error;
    return FAIL;
  }
  if (number != wanted) return GO_ON;
  if (strcmp(action, "kill") == 0) kill(getpid(), SIGKILL);
  if (strcmp(action, "stop") == 0) kill(getpid(), SIGTERM);
  if (strcmp(action, "after") == 0) return STRIKE_AFTER;
  if (strcmp(action, "freeze") == 0) return FREEZE;
  if (strcmp(action, "torn") == 0) {
    if (strcmp(call, "write") != 0) kill(getpid(), SIGKILL);
    return TEAR;
  }
  return GO_ON;
}

static long struck(enum verdict verdict, long result) {
  if (verdict == STRIKE_AFTER) kill(getpid(), SIGKILL);
  if (verdict == FREEZE) kill(getpid(), SIGSTOP);
  return result;
}

/* How many of the bytes there is room for, -1 where there is none. */
static ssize_t room(const char *path, size_t count) {
  const char *limit = getenv("FAULTS_ROOM"), *folder = getenv("FAULTS_FOLDER");
  if (!limit || !folder || !below(folder, path)) return (ssize_t)count;
  long left = atol(limit) - atomic_load(&written);
  if (left <= 0) {
    errno = ENOSPC;
    return -1;
  }
  ssize_t fits = (long)count < left ? (ssize_t)count : left;
  atomic_fetch_add(&written, fits);
  return fits;
}

#define WRITE(handle, count, statement)                 \
  char path[PATH_MAX];                                  \
  if (!path_of(handle, path)) return statement;         \
  enum verdict verdict = decide("write", path);         \
  if (verdict == FAIL) return -1;                       \
  if (verdict == TEAR) count = (count + 1) / 2;         \
  ssize_t fits = room(path, count);                     \
  if (fits < 0) return -1;                              \
  count = (size_t)fits;                                 \
  ssize_t result = statement;                           \
  return struck(verdict == TEAR ? STRIKE_AFTER : verdict, result);

ssize_t write(int handle, const void *bytes, size_t count) { WRITE(handle, count, REAL(write)(handle, bytes, count)) }

ssize_t pwrite(int handle, const void *bytes, size_t count, off_t place) {
  WRITE(handle, count, REAL(pwrite)(handle, bytes, count, place))
}

ssize_t pwrite64(int handle, const void *bytes, size_t count, off64_t place) {
  WRITE(handle, count, REAL(pwrite64)(handle, bytes, count, place))
}

static int sync_with(int (*function)(int), int handle) {
  char path[PATH_MAX];
  if (!path_of(handle, path)) return function(handle);
  enum verdict verdict = decide("sync", path);
  return verdict == FAIL ? -1 : (int)struck(verdict, function(handle));
}

int fsync(int handle) { return sync_with(REAL(fsync), handle); }

int fdatasync(int handle) { return sync_with(REAL(fdatasync), handle); }

int rename(const char *from, const char *to) {
  char path[PATH_MAX];
  if (!absolute(to, path)) return REAL(rename)(from, to);
  enum verdict verdict = decide("rename", path);
  return verdict == FAIL ? -1 : (int)struck(verdict, REAL(rename)(from, to));
}

int unlink(const char *name) {
  char path[PATH_MAX];
  if (!absolute(name, path)) return REAL(unlink)(name);
  enum verdict verdict = decide("unlink", path);
  return verdict == FAIL ? -1 : (int)struck(verdict, REAL(unlink)(name));
}

int mkdir(const char *name, mode_t mode) {
  char path[PATH_MAX];
  if (!absolute(name, path)) return REAL(mkdir)(name, mode);
  enum verdict verdict = decide("mkdir", path);
  return verdict == FAIL ? -1 : (int)struck(verdict, REAL(mkdir)(name, mode));
}

/* What may change a file: reading is never disturbed. */
#define OPEN(function, ...)                                                 \
  mode_t mode = 0;                                                          \
  if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {              \
    va_list rest;                                                           \
    va_start(rest, flags);                                                  \
    mode = va_arg(rest, mode_t);                                            \
    va_end(rest);                                                           \
  }                                                                         \
  char path[PATH_MAX];                                                      \
  if ((flags & O_ACCMODE) == O_RDONLY || !absolute(name, path)) return function(__VA_ARGS__, mode); \
  enum verdict verdict = decide("open", path);                              \
  return verdict == FAIL ? -1 : (int)struck(verdict, function(__VA_ARGS__, mode));

int open(const char *name, int flags, ...) { OPEN(REAL(open), name, flags) }

int open64(const char *name, int flags, ...) { OPEN(REAL(open64), name, flags) }

static long offset(void) {
  const char *file = getenv("FAULTS_CLOCK");
  if (!file) return 0;
  char text[32] = {0};
  int handle = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY, 0);
  if (handle < 0) return 0;
  syscall(SYS_read, handle, text, sizeof text - 1);
  syscall(SYS_close, handle);
  return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = REAL(clock_gettime)(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
  return result;
}

int gettimeofday(struct timeval *now, void *zone) {
  int result = REAL(gettimeofday)(now, zone);
  if (result == 0) now->tv_sec += offset();
  return result;
}

time_t time(time_t *now) {
  struct timeval value;
  gettimeofday(&value, NULL);
  if (now) *now = value.tv_sec;
  return value.tv_sec;
}
