/* plum-shim: starts one process and outlives whoever asked for it.
 *
 *     plum-shim DIRECTORY
 *
 * The directory belongs to one attempt. Its caller leaves in it `spec` (records "key=value", each
 * ended by a NUL, the last one "end=") and perhaps `stdin`. What appears:
 *
 *   claim        locked while the shim lives; its first write (pid, then the cgroups made, one a
 *                line) says: from here on the process may have run. So an attempt starts once.
 *   sock         a SOCK_SEQPACKET socket; its end is the end. "stop GRACE_MS REASON" and "status"
 *                are answered with the state (STATE SHIM_PID PID LEASE_AT_MS UNHELD: the limits that
 *                nothing holds here, separated by commas, or "-"); "stats" with what the tree
 *                uses; "tail OFFSET" once, as soon as the log goes beyond that; "lease BOOT_MS"
 *                renews the lease.
 *   log.X idx.X  segments of the output, X = offset of their first byte (hex). log is the plain
 *                bytes of both streams as they came; idx says who wrote them and when: pairs of
 *                uint64 (offset, ms << 8 | stream). The first 8 and the last 8 segments are kept.
 *   status       JSON, written whole and durably once nothing of the process's tree is left.
 *
 * The launcher returns at once: 0 started, 3 this attempt was started before, 1 could not (why is
 * on stderr; nothing was claimed). Idle it sleeps in poll without a timeout.
 *
 * A process with a lease (lease_at_ms of the spec, CLOCK_BOOTTIME) is killed a little before that
 * time unless somebody has renewed it: whoever should have done so may be stopped, or cut off.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { STARTED = 0, FAILED = 1, ALREADY = 3 };
enum { CHUNK_BYTES = 65536, SEGMENTS = 16, SEGMENTS_KEPT = 8, CLIENTS_MAX = 72, SIGNALS_MAX = 8 };
enum { INDEX_EVERY_MS = 1000, KILL_AGAIN_MS = 10, KILL_AGAIN_MS_MAX = 1000, STATUS_TRIES = 600 };
enum { LEASE_EARLY_MS = 250 };      /* before its end, for a kill takes a while */
enum { LEASE_LOOK_MS = 1000 };      /* poll does not count suspension, so it looks again */
enum { RUNNING, STOPPING, KILLING };
enum { UNIFIED, MEMORY, CPU, PIDS, GROUPS };
enum { SIGNALS, LISTEN, STAGE, OUT, ERR, CLIENTS, FDS = CLIENTS + CLIENTS_MAX };

static const char *const group_names[GROUPS] = {"", "memory", "cpu", "pids"};

struct failure { char stage[12]; int error; };

static struct {                     /* what was asked */
    char **argv, **envp;
    const char *cwd, *name;
    int64_t log_bytes, grace_ms, memory_bytes, cpu_percent, pids, lease_at_ms;
    bool cgroups;
} spec = {.cwd = "/", .name = "plum", .log_bytes = 64 << 20, .grace_ms = 10000, .cgroups = true};

static struct {                     /* the output on disk */
    int log, idx, error;
    uint64_t total, start, lost, stream_bytes[3];
    uint64_t starts[SEGMENTS_KEPT];
    unsigned segments, entries;
    int64_t entry_ms;
    int entry_stream;
} out = {.log = -1, .idx = -1};

static struct {                     /* the process and its end */
    pid_t pid;
    int state, status;
    bool childless, ended, executed;
    struct failure failure;
    int64_t start_ms, start_us, end_ms, end_us, deadline_ms, again_ms;
    char stop_reason[16];
    struct { int number, processes; int64_t at_ms; } sent[SIGNALS_MAX];
    int sent_count;
} run;

static char groups[GROUPS][PATH_MAX];      /* "" = not made */
static const char *limited[GROUPS];        /* how the limit of this kind is held */
static struct pollfd fds[FDS];
static struct { bool wanted; uint64_t offset; } tails[FDS];     /* who waits for more of the log */
static int claim_fd = -1, status_fd = -1, report_fd = -1, write_ends[3];
static char chunk[CHUNK_BYTES];

static int64_t clock_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t mono_ms(void) { return clock_us(CLOCK_MONOTONIC) / 1000; }
static int64_t wall_ms(void) { return clock_us(CLOCK_REALTIME) / 1000; }
static int64_t boot_ms(void) { return clock_us(CLOCK_BOOTTIME) / 1000; }   /* counts suspension */

/* Tells the launcher how the start went. Only `code` 0 lets the shim live on. */
static void report(char code, const char *what, int error)
{
    char line[256];
    int n = snprintf(line + 1, sizeof line - 1, "%s%s%s", what, error ? ": " : "",
                     error ? strerror(error) : "");
    line[0] = code;
    size_t size = 1 + ((size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2);
    if (write(report_fd, line, size) < 0)
        (void)errno;                /* the launcher was killed; the attempt goes on without it */
    close(report_fd);
    if (code != STARTED)
        _exit(code);
}

static bool write_whole(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text);
}

/* Reads a small file of /proc or a cgroup as text; its length, or -1. */
static ssize_t read_whole(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size_t used = 0;
    ssize_t n = 0;
    while (used < size - 1 && (n = read(fd, text + used, size - 1 - used)) > 0)
        used += (size_t)n;
    close(fd);
    text[used] = 0;
    return n < 0 ? -1 : (ssize_t)used;
}

/* ---- the spec ------------------------------------------------------------------------------ */

static bool take_record(char *record, size_t *argc, size_t *envc)
{
    char *value = strchr(record, '=');
    if (!value)
        return false;
    *value++ = 0;
    if (!strcmp(record, "arg")) spec.argv[(*argc)++] = value;
    else if (!strcmp(record, "env")) spec.envp[(*envc)++] = value;
    else if (!strcmp(record, "cwd")) spec.cwd = value;
    else if (!strcmp(record, "name")) spec.name = value;
    else if (!strcmp(record, "log_bytes")) spec.log_bytes = atoll(value);
    else if (!strcmp(record, "grace_ms")) spec.grace_ms = atoll(value);
    else if (!strcmp(record, "memory_bytes")) spec.memory_bytes = atoll(value);
    else if (!strcmp(record, "cpu_percent")) spec.cpu_percent = atoll(value);
    else if (!strcmp(record, "pids")) spec.pids = atoll(value);
    else if (!strcmp(record, "lease_at_ms")) spec.lease_at_ms = atoll(value);
    else if (!strcmp(record, "cgroups")) spec.cgroups = atoi(value) != 0;
    else return !strcmp(record, "end");
    return true;
}

/* The whole spec stays in memory as read; argv and envp point into it. */
static void read_spec(void)
{
    struct stat st;
    int fd = open("spec", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        report(FAILED, "spec", errno);
    size_t size = (size_t)st.st_size, used = 0, records = 0, argc = 0, envc = 0;
    char *text = malloc(size + 1);
    if (!text)
        report(FAILED, "spec", ENOMEM);
    for (ssize_t n; used < size && (n = read(fd, text + used, size - used)) > 0;)
        used += (size_t)n;
    close(fd);
    text[used] = 0;
    if (used < 5 || memcmp(text + used - 5, "end=", 5) != 0)
        report(FAILED, "spec is not whole", 0);
    for (size_t i = 0; i < used; i++)
        records += text[i] == 0;
    spec.argv = calloc(records + 1, sizeof(char *));
    spec.envp = calloc(records + 1, sizeof(char *));
    if (!spec.argv || !spec.envp)
        report(FAILED, "spec", ENOMEM);
    for (char *record = text, *next; record < text + used; record = next) {
        next = record + strlen(record) + 1;
        if (!take_record(record, &argc, &envc))
            report(FAILED, "spec has a record that is not known", 0);
    }
    if (argc == 0 || spec.log_bytes < SEGMENTS * 1024 || strchr(spec.name, '/'))
        report(FAILED, "spec lacks a command, or has a bad log_bytes or name", 0);
}

/* ---- cgroups: where they may be made, they make the kill atomic and hold the limits ---------- */

/* Our own group in the hierarchy of this v1 controller, or in the v2 one for "". */
static bool own_group(const char *controller, char *path, size_t size)
{
    char line[PATH_MAX + 256], mount[PATH_MAX] = "", own[PATH_MAX] = "";
    bool v2 = !*controller, found = false;
    FILE *f = fopen("/proc/self/mounts", "re");
    while (f && !*mount && fgets(line, sizeof line, f)) {
        char *save = NULL, *type, *options, *option = NULL;
        strtok_r(line, " ", &save);
        char *where = strtok_r(NULL, " ", &save);
        type = strtok_r(NULL, " ", &save);
        options = strtok_r(NULL, " ", &save);
        if (!where || !type || !options || strcmp(type, v2 ? "cgroup2" : "cgroup") != 0)
            continue;
        for (option = v2 ? NULL : strtok_r(options, ",", &save);
             option && strcmp(option, controller) != 0;)
            option = strtok_r(NULL, ",", &save);
        if (v2 || option)
            snprintf(mount, sizeof mount, "%s", where);
    }
    if (f)
        fclose(f);
    f = fopen("/proc/self/cgroup", "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        bool hit = v2 && !list[1];
        for (char *save = NULL, *item = strtok_r(list + 1, ",", &save); item && !v2 && !hit;
             item = strtok_r(NULL, ",", &save))
            hit = !strcmp(item, controller);
        found = hit;
        if (hit)
            snprintf(own, sizeof own, "%s", strcmp(group, "/") ? group : "");
    }
    if (f)
        fclose(f);
    if (!*mount || strstr(own, "/.."))
        return false;
    return found && (size_t)snprintf(path, size, "%s%s", mount, own) < size;
}

/* A group below a delegated parent where there is one (systemd's DelegateSubgroup= puts us in a
 * leaf of our own), else below ourselves. v2 wants its controllers switched on in the parent. */
static void make_group(int kind)
{
    char base[PATH_MAX - 256], path[PATH_MAX], mark[8] = "";
    if (!own_group(group_names[kind], base, sizeof base))
        return;
    if (kind == UNIFIED) {
        snprintf(path, sizeof path, "%s/..", base);
        if (getxattr(path, "user.delegate", mark, sizeof mark - 1) == 1 && *mark == '1')
            *strrchr(base, '/') = 0;
        snprintf(path, sizeof path, "%s/cgroup.subtree_control", base);
        write_whole(path, "+memory");       /* each alone: one that lacks must not hinder */
        if (spec.cpu_percent) write_whole(path, "+cpu");
        if (spec.pids) write_whole(path, "+pids");
    }
    snprintf(path, sizeof path, "%s/%.150s-%d", base, spec.name, (int)getpid());
    if (mkdir(path, 0755) == 0)
        memcpy(groups[kind], path, sizeof path);
}

static bool group_write(int kind, const char *file, int64_t value, const char *after)
{
    char path[PATH_MAX + 64], text[64];
    snprintf(path, sizeof path, "%s/%s", groups[kind], file);
    snprintf(text, sizeof text, "%lld%s", (long long)value, after);
    return *groups[kind] && write_whole(path, text);
}

/* One limit: by v2, by a v1 group made for it, or (NULL is left) not by a group at all. */
static void limit(int kind, int64_t value, const char *v2_file, const char *v1_file,
                  const char *v2_after)
{
    if (value <= 0)
        return;
    if (group_write(UNIFIED, v2_file, value, v2_after)) {
        limited[kind] = "cgroup2";
        return;
    }
    make_group(kind);                       /* costs a join of 7 ms, so only where it is needed */
    if (group_write(kind, v1_file, value, ""))
        limited[kind] = "cgroup1";
}

static void make_groups(void)
{
    if (spec.cgroups) {
        make_group(UNIFIED);
        limit(MEMORY, spec.memory_bytes, "memory.max", "memory.limit_in_bytes", "");
        if (limited[MEMORY])
            group_write(UNIFIED, "memory.swap.max", 0, "");
        limit(CPU, spec.cpu_percent * 1000, "cpu.max", "cpu.cfs_quota_us", " 100000");
        limit(PIDS, spec.pids, "pids.max", "pids.max", "");
    }
    if (spec.memory_bytes > 0 && !limited[MEMORY])
        limited[MEMORY] = "rlimit";         /* per process; there is no such thing for the others */
}

/* A number from a group's file: the whole file, or what stands behind `key`. -1 when unknown. */
static int64_t group_read(int kind, const char *file, const char *key)
{
    char path[PATH_MAX + 64], text[1024];
    snprintf(path, sizeof path, "%s/%s", groups[kind], file);
    if (!*groups[kind] || read_whole(path, text, sizeof text) <= 0)
        return -1;
    char *at = key ? strstr(text, key) : text;
    return at ? atoll(key ? at + strlen(key) : at) : -1;
}

static void remove_groups(void)
{
    for (int kind = 0; kind < GROUPS; kind++)
        for (int i = 0; *groups[kind] && rmdir(groups[kind]) < 0 && errno == EBUSY && i < 50; i++)
            poll(NULL, 0, 1);
}

/* ---- the log ------------------------------------------------------------------------------- */

static void segment_name(char *name, const char *kind, uint64_t start)
{
    snprintf(name, 32, "%s.%012llx", kind, (unsigned long long)start);
}

/* Opens the segment at the end of the log. Of the later ones only the last 8 stay on disk. */
static bool open_segment(void)
{
    char name[32];
    if (out.log >= 0) close(out.log);
    if (out.idx >= 0) close(out.idx);
    out.start = out.total;
    segment_name(name, "idx", out.start);
    out.idx = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    segment_name(name, "log", out.start);
    out.log = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out.idx < 0 || out.log < 0) {
        out.error = errno;
        if (out.log >= 0) close(out.log);
        if (out.idx >= 0) close(out.idx);
        out.log = out.idx = -1;
        return false;
    }
    uint64_t *slot = &out.starts[out.segments % SEGMENTS_KEPT];
    if (out.segments >= 2 * SEGMENTS_KEPT) {
        segment_name(name, "log", *slot);
        unlink(name);
        segment_name(name, "idx", *slot);
        unlink(name);
    }
    *slot = out.start;
    out.segments++;
    out.entries = 0;
    return true;
}

/* Says in the index, before the bytes are there, whose they will be. */
static bool index_entry(int stream)
{
    int64_t now = wall_ms();
    if (out.entries && stream == out.entry_stream && now - out.entry_ms < INDEX_EVERY_MS)
        return true;
    uint64_t entry[2] = {out.total, (uint64_t)now << 8 | (uint64_t)stream};
    off_t at = (off_t)(out.entries * sizeof entry);
    if (pwrite(out.idx, entry, sizeof entry, at) != (ssize_t)sizeof entry) {
        out.error = errno;
        return false;
    }
    out.entries++;
    out.entry_stream = stream;
    out.entry_ms = now;
    return true;
}

/* Appends output. A disk that takes no more costs the bytes, never the process its progress. */
static void keep_output(int stream, const char *bytes, size_t size)
{
    uint64_t segment = (uint64_t)spec.log_bytes / SEGMENTS;
    out.stream_bytes[stream] += size;
    while (size) {
        bool full = out.total - out.start >= segment || out.entries > segment / 256;
        if ((out.log < 0 || full) && !open_segment())
            break;
        if (!index_entry(stream))
            break;
        uint64_t room = segment - (out.total - out.start);
        ssize_t n = write(out.log, bytes, size < room ? size : (size_t)room);
        if (n <= 0) {
            out.error = n < 0 ? errno : ENOSPC;
            break;
        }
        out.total += (uint64_t)n;
        bytes += n;
        size -= (size_t)n;
    }
    out.lost += size;
}

/* One read of a stream; false when there is nothing more for now. */
static bool read_stream(int slot)
{
    ssize_t n = read(fds[slot].fd, chunk, sizeof chunk);
    if (n > 0) {
        keep_output(slot - OUT + 1, chunk, (size_t)n);
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    close(fds[slot].fd);
    fds[slot].fd = -1;
    return false;
}

/* ---- the tree: every descendant, since orphans are given to us (subreaper) ------------------- */

struct process {
    pid_t pid, parent;
    char state;
    unsigned long long start, user_ticks, system_ticks;
    long pages;
};

static bool look_at(pid_t pid, struct process *p)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_whole(path, text, sizeof text) <= 0)
        return false;
    char *at = strrchr(text, ')');
    int parent;
    p->pid = pid;
    if (!at || sscanf(at + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d"
                      " %*d %*d %llu %*u %ld", &p->state, &parent, &p->user_ticks,
                      &p->system_ticks, &p->start, &p->pages) != 6)
        return false;
    p->parent = parent;
    return true;
}

/* Brings our descendants to the front of the table, each after its parent; how many they are. */
static size_t gather_ours(struct process *table, size_t count)
{
    size_t ours = 0;
    pid_t parent = getpid();
    for (size_t next = 0; next <= ours; next++) {
        for (size_t i = ours; i < count; i++)
            if (table[i].parent == parent) {
                struct process child = table[i];
                table[i] = table[ours];
                table[ours++] = child;
            }
        if (next < ours)
            parent = table[next].pid;
        else
            break;
    }
    return ours;
}

static void send_to(const struct process *p, int number)
{
    struct process now;
    int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    if (fd < 0 && errno == ENOSYS)
        kill(p->pid, number);
    if (fd < 0)
        return;
    if (look_at(p->pid, &now) && now.start == p->start) {   /* not a newcomer with the same pid */
        syscall(SYS_pidfd_send_signal, fd, number, NULL, 0);
        if (number == SIGTERM)
            syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0);
    }
    close(fd);
}

/* Our descendants in a table that the caller frees; how many they are. */
static size_t tree(struct process **found)
{
    size_t count = 0, room = 0;
    struct process *table = NULL;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        if (pid <= 0)
            continue;
        if (count == room) {
            struct process *more = realloc(table, (room + 256) * sizeof *table);
            if (!more)
                break;
            table = more;
            room += 256;
        }
        count += look_at(pid, &table[count]);
    }
    if (proc)
        closedir(proc);
    *found = table;
    return gather_ours(table, count);
}

/* Signals the whole tree; how many living processes there were in it. */
static int signal_tree(int number)
{
    struct process *table;
    size_t ours = tree(&table);
    if (number == SIGKILL)
        group_write(UNIFIED, "cgroup.kill", 1, "");
    int living = 0;
    for (size_t i = 0; i < ours; i++) {
        living += table[i].state != 'Z';
        send_to(&table[i], number);
    }
    free(table);
    return living;
}

static void signal_and_note(int number)
{
    int64_t at = wall_ms();
    int living = signal_tree(number);
    int last = run.sent_count - 1;
    if ((last >= 0 && run.sent[last].number == number) || last + 1 == SIGNALS_MAX)
        return;                             /* the same again: the first one is what counts */
    run.sent[last + 1].number = number;
    run.sent[last + 1].processes = living;
    run.sent[last + 1].at_ms = at;
    run.sent_count++;
}

static void kill_now(void)
{
    run.again_ms = run.state == KILLING && run.again_ms < KILL_AGAIN_MS_MAX
        ? run.again_ms * 2 : KILL_AGAIN_MS;
    run.state = KILLING;
    signal_and_note(SIGKILL);
    run.deadline_ms = mono_ms() + run.again_ms;
}

static void reap(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == run.pid) {
            run.ended = true;
            run.status = status;
            run.end_ms = wall_ms();
            run.end_us = clock_us(CLOCK_MONOTONIC);
        }
    run.childless = pid < 0 && errno == ECHILD;
    if (run.ended && !run.childless && run.state == RUNNING)
        kill_now();                         /* a task's tree does not outlive it */
}

/* The first wish is the reason; a later one may only shorten the grace. */
static void stop(int64_t grace_ms, const char *reason)
{
    reap();
    if (run.ended)
        return;                             /* it ended by itself, and that stays the truth */
    if (!*run.stop_reason)
        snprintf(run.stop_reason, sizeof run.stop_reason, "%s", reason);
    int64_t deadline = mono_ms() + (grace_ms > 0 ? grace_ms : 0);
    if (run.state == RUNNING) {
        run.deadline_ms = deadline;
        run.state = STOPPING;
        if (grace_ms > 0)
            signal_and_note(SIGTERM);
    } else if (run.state == STOPPING && deadline < run.deadline_ms) {
        run.deadline_ms = deadline;
    }
    if (run.state == STOPPING && mono_ms() >= run.deadline_ms)
        kill_now();
}

static void end_of_lease(void)
{
    if (!*run.stop_reason)
        snprintf(run.stop_reason, sizeof run.stop_reason, "lease");
    kill_now();
}

/* ---- the start ----------------------------------------------------------------------------- */

static void fail_child(int fd, const char *stage, int error)
{
    struct failure failure = {.error = error};
    snprintf(failure.stage, sizeof failure.stage, "%s", stage);
    if (write(fd, &failure, sizeof failure) < 0)
        (void)errno;
    _exit(127);
}

/* execve along PATH of the new environment. Not execvp: that would fall back to a shell. */
static int exec_command(void)
{
    const char *command = spec.argv[0], *path = NULL;
    if (strchr(command, '/')) {
        execve(command, spec.argv, spec.envp);
        return errno;
    }
    for (char **entry = spec.envp; *entry; entry++)
        if (!strncmp(*entry, "PATH=", 5))
            path = *entry + 5;
    int error = ENOENT;
    while (path && *command) {
        char full[PATH_MAX];
        size_t size = strcspn(path, ":");
        int n = snprintf(full, sizeof full, "%.*s%s%s", (int)size, path, size ? "/" : "", command);
        if (n > 0 && (size_t)n < sizeof full) {
            execve(full, spec.argv, spec.envp);
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
                return errno;
            if (errno == EACCES)
                error = EACCES;
        }
        path = path[size] ? path + size + 1 : NULL;
    }
    return error;
}

static bool holds_limit(int group)
{
    for (int kind = MEMORY; kind < GROUPS; kind++)
        if (limited[kind] && !strcmp(limited[kind], group == UNIFIED ? "cgroup2" : "cgroup1")
            && (group == UNIFIED || group == kind))
            return true;
    return false;
}

static void become_command(const int ends[3], pid_t shim)
{
    sigset_t none;
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);       /* a killed shim leaves no process unwatched */
    if (getppid() != shim)
        _exit(127);
    for (int kind = 0; kind < GROUPS; kind++)
        if (*groups[kind] && !group_write(kind, "cgroup.procs", 0, "") && holds_limit(kind))
            fail_child(ends[0], "cgroup", errno);
    if (limited[MEMORY] && !strcmp(limited[MEMORY], "rlimit")) {
        struct rlimit bytes = {(rlim_t)spec.memory_bytes, (rlim_t)spec.memory_bytes};
        if (setrlimit(RLIMIT_AS, &bytes) < 0)
            fail_child(ends[0], "limits", errno);
    }
    int in = open("stdin", O_RDONLY | O_CLOEXEC);
    if (in < 0 && errno == ENOENT)
        in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (in < 0 || dup2(in, 0) < 0 || dup2(ends[1], 1) < 0 || dup2(ends[2], 2) < 0)
        fail_child(ends[0], "stdin", errno);
    if (chdir(spec.cwd) < 0)
        fail_child(ends[0], "workingDir", errno);
    fail_child(ends[0], "exec", exec_command());
}

/* fork, straight into the v2 group: joining it later would wait 7 ms for the kernel. */
static pid_t fork_into_group(bool *inside)
{
    int fd = *groups[UNIFIED] ? open(groups[UNIFIED], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    long pid = -1;
    if (fd >= 0) {
        struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD,
                                  .cgroup = (unsigned long long)fd};
        pid = syscall(SYS_clone3, &args, sizeof args);
        *inside = pid >= 0;
        close(fd);
    }
    return pid >= 0 ? (pid_t)pid : fork();
}

static void open_pipes(void)
{
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0)
            report(FAILED, "pipe", errno);
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        fds[STAGE + i].fd = ends[0];
        write_ends[i] = ends[1];
    }
}

static void start(void)
{
    pid_t shim = getpid();
    bool inside = false;
    run.start_ms = wall_ms();
    run.start_us = clock_us(CLOCK_MONOTONIC);
    run.pid = fork_into_group(&inside);
    if (run.pid == 0) {
        if (inside)
            *groups[UNIFIED] = 0;
        become_command(write_ends, shim);
    }
    if (run.pid < 0) {
        run.failure = (struct failure){"fork", errno};
        run.ended = run.childless = true;
        run.end_ms = run.start_ms;
        run.end_us = run.start_us;
    }
    for (int i = 0; i < 3; i++)
        close(write_ends[i]);
}

static void started(void)
{
    struct failure failure;
    ssize_t n = read(fds[STAGE].fd, &failure, sizeof failure);
    if (n < 0 && errno == EAGAIN)
        return;
    run.executed = n == 0;
    if (n == (ssize_t)sizeof failure)
        run.failure = failure;
    close(fds[STAGE].fd);
    fds[STAGE].fd = -1;
    unlink("spec");                         /* it holds the environment, so perhaps secrets */
    unlink("stdin");
}

/* ---- the end ------------------------------------------------------------------------------- */

static size_t status_text(char *text, size_t size)
{
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    int memory = limited[MEMORY] && !strcmp(limited[MEMORY], "cgroup1") ? MEMORY : UNIFIED;
    int64_t peak = group_read(memory, memory ? "memory.max_usage_in_bytes" : "memory.peak", NULL);
    int64_t oom = group_read(memory, memory ? "memory.oom_control" : "memory.events", "oom_kill ");
    bool exited = WIFEXITED(run.status) && !run.failure.error;
    FILE *f = fmemopen(text, size, "w");
    if (!f)
        return 0;
    fprintf(f, "{\"pid\":%d,\"executed\":%s,\"exitCode\":%d,\"signal\":%d,", (int)run.pid,
            run.executed ? "true" : "false", exited ? WEXITSTATUS(run.status) : -1,
            WIFSIGNALED(run.status) ? WTERMSIG(run.status) : 0);
    fprintf(f, "\"failedStage\":\"%s\",\"failedErrno\":%d,\"failedText\":\"%s\",",
            run.failure.stage, run.failure.error,
            run.failure.error ? strerror(run.failure.error) : "");
    fprintf(f, "\"startedMs\":%lld,\"endedMs\":%lld,\"durationUs\":%lld,",
            (long long)run.start_ms, (long long)run.end_ms,
            (long long)(run.end_us - run.start_us));
    fprintf(f, "\"userUs\":%lld,\"systemUs\":%lld,\"readBytes\":%lld,\"writtenBytes\":%lld,",
            (long long)used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec,
            (long long)used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec,
            (long long)used.ru_inblock * 512, (long long)used.ru_oublock * 512);
    fprintf(f, "\"peakMemoryBytes\":%lld,\"oomKills\":%lld,",
            peak > 0 ? (long long)peak : (long long)used.ru_maxrss * 1024,
            (long long)(oom > 0 ? oom : 0));
    fprintf(f, "\"stdoutBytes\":%llu,\"stderrBytes\":%llu,\"lostBytes\":%llu,\"logErrno\":%d,",
            (unsigned long long)out.stream_bytes[1], (unsigned long long)out.stream_bytes[2],
            (unsigned long long)out.lost, out.error);
    fprintf(f, "\"group\":\"%s\",\"limits\":{", *groups[UNIFIED] ? "cgroup2" : "");
    for (int kind = MEMORY, n = 0; kind < GROUPS; kind++)
        if (limited[kind])
            fprintf(f, "%s\"%s\":\"%s\"", n++ ? "," : "", group_names[kind], limited[kind]);
    fprintf(f, "},\"stopReason\":\"%s\",\"signals\":[", run.stop_reason);
    for (int i = 0; i < run.sent_count; i++)
        fprintf(f, "%s{\"signal\":%d,\"atMs\":%lld,\"processes\":%d}", i ? "," : "",
                run.sent[i].number, (long long)run.sent[i].at_ms, run.sent[i].processes);
    fprintf(f, "]}\n");
    long length = ftell(f);
    fclose(f);
    return length > 0 ? (size_t)length : 0;
}

static bool sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool done = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return done;
}

/* Writes the status into the blocks that were reserved for it, so that a full disk cannot lose
 * the exit code; tries again each second when it fails all the same, unless there is no such
 * directory any more. */
static void finish(void)
{
    static char text[4096];
    for (int slot = OUT; slot <= ERR; slot++)
        for (int i = 0; i < 64 && fds[slot].fd >= 0 && read_stream(slot); i++) {}
    if (fds[STAGE].fd >= 0)
        started();
    size_t size = status_text(text, sizeof text);
    for (int i = 0; i < STATUS_TRIES; i++) {
        errno = 0;                          /* a short write sets none */
        if (pwrite(status_fd, text, size, 0) == (ssize_t)size
            && ftruncate(status_fd, (off_t)size) == 0 && fsync(status_fd) == 0
            && rename("status.new", "status") == 0 && sync_directory("."))
            break;
        if (errno == ENOENT)
            break;
        poll(NULL, 0, 1000);
    }
    remove_groups();
    unlink("sock");
    rmdir("work");                          /* goes only when the process left nothing in it */
}

/* What the tree uses now: "stats CPU_US MEMORY_BYTES PROCESSES PEAK_BYTES READ WRITTEN". */
static int stats_text(char *text, size_t size)
{
    struct rusage gone;
    struct process *table;
    size_t ours = tree(&table);
    int64_t pages = 0, living = 0, ticks = 0, read_bytes = 0, written = 0;
    for (size_t i = 0; i < ours; i++) {
        char path[64], io[512], *at;
        ticks += (int64_t)(table[i].user_ticks + table[i].system_ticks);
        pages += table[i].pages;
        living += table[i].state != 'Z';
        snprintf(path, sizeof path, "/proc/%d/io", (int)table[i].pid);
        if (read_whole(path, io, sizeof io) > 0) {
            if ((at = strstr(io, "\nread_bytes: "))) read_bytes += atoll(at + 13);
            if ((at = strstr(io, "\nwrite_bytes: "))) written += atoll(at + 14);
        }
    }
    free(table);
    getrusage(RUSAGE_CHILDREN, &gone);
    int64_t us = ((int64_t)gone.ru_utime.tv_sec + gone.ru_stime.tv_sec) * 1000000
        + gone.ru_utime.tv_usec + gone.ru_stime.tv_usec + ticks * (1000000 / sysconf(_SC_CLK_TCK));
    int memory = limited[MEMORY] && !strcmp(limited[MEMORY], "cgroup1") ? MEMORY : UNIFIED;
    int64_t peak = group_read(memory, memory ? "memory.max_usage_in_bytes" : "memory.peak", NULL);
    return snprintf(text, size, "stats %lld %lld %lld %lld %lld %lld", (long long)us,
                    (long long)pages * sysconf(_SC_PAGESIZE), (long long)living,
                    (long long)(peak > 0 ? peak : (int64_t)gone.ru_maxrss * 1024),
                    (long long)(read_bytes + (int64_t)gone.ru_inblock * 512),
                    (long long)(written + (int64_t)gone.ru_oublock * 512));
}

/* ---- the socket ---------------------------------------------------------------------------- */

static void listen_here(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "sock"};
    unlink("sock");
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 64) < 0)
        report(FAILED, "sock", errno);
    fds[LISTEN].fd = fd;
}

static void accept_client(void)
{
    int fd = accept4(fds[LISTEN].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (int slot = CLIENTS; fd >= 0 && slot < FDS; slot++)
        if (fds[slot].fd < 0) {
            fds[slot].fd = fd;
            tails[slot].wanted = false;
            return;
        }
    if (fd >= 0)
        close(fd);
}

static void serve_client(int slot)
{
    char text[128], reason[16] = "asked";
    long long grace_ms = spec.grace_ms;
    ssize_t n = recv(fds[slot].fd, text, sizeof text - 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close(fds[slot].fd);
        fds[slot].fd = -1;
        return;
    }
    text[n] = 0;
    if (!strncmp(text, "tail ", 5)) {
        tails[slot].offset = (uint64_t)strtoull(text + 5, NULL, 10);
        tails[slot].wanted = true;
        return;
    }
    if (!strncmp(text, "stats", 5)) {
        n = stats_text(text, sizeof text);
        send(fds[slot].fd, text, (size_t)n, MSG_NOSIGNAL);
        return;
    }
    if (!strncmp(text, "lease ", 6) && spec.lease_at_ms < atoll(text + 6))
        spec.lease_at_ms = atoll(text + 6);
    if (!strncmp(text, "stop", 4)) {
        sscanf(text, "stop %lld %15[a-z]", &grace_ms, reason);
        stop(grace_ms, reason);
    }
    static const char *const states[] = {"running", "stopping", "killing"};
    bool cpu = spec.cpu_percent > 0 && !limited[CPU], pids = spec.pids > 0 && !limited[PIDS];
    n = snprintf(text, sizeof text, "%s %d %d %lld %s", states[run.state], (int)getpid(),
                 (int)run.pid, (long long)spec.lease_at_ms,
                 cpu && pids ? "cpu,pids" : cpu ? "cpu" : pids ? "pids" : "-");
    send(fds[slot].fd, text, (size_t)n, MSG_NOSIGNAL);
}

/* Tells those who wait that there is more of the log than they have. */
static void tell_tails(void)
{
    char text[32];
    for (int slot = CLIENTS; slot < FDS; slot++)
        if (fds[slot].fd >= 0 && tails[slot].wanted && out.total > tails[slot].offset) {
            int n = snprintf(text, sizeof text, "log %llu", (unsigned long long)out.total);
            tails[slot].wanted = false;
            send(fds[slot].fd, text, (size_t)n, MSG_NOSIGNAL);
        }
}

/* ---- the shim's life ----------------------------------------------------------------------- */

static void take_signals(void)
{
    struct signalfd_siginfo info;
    while (read(fds[SIGNALS].fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo == SIGTERM)      /* the machine goes down */
            stop(spec.grace_ms, "shutdown");
    reap();
}

static int timeout_ms(void)
{
    int64_t left = run.state == RUNNING ? INT_MAX : run.deadline_ms - mono_ms();
    if (run.state == RUNNING && !spec.lease_at_ms)
        return -1;
    if (run.state != KILLING && spec.lease_at_ms) {
        int64_t lease = spec.lease_at_ms - LEASE_EARLY_MS - boot_ms();
        lease = lease > LEASE_LOOK_MS ? LEASE_LOOK_MS : lease;
        left = lease < left ? lease : left;
    }
    return left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

static void watch(void)
{
    while (!(run.ended && run.childless)) {
        if (poll(fds, FDS, timeout_ms()) < 0 && errno != EINTR)
            kill_now();
        if (run.state != RUNNING && mono_ms() >= run.deadline_ms)
            kill_now();
        if (run.state != KILLING && spec.lease_at_ms
            && boot_ms() >= spec.lease_at_ms - LEASE_EARLY_MS)
            end_of_lease();
        for (int slot = STAGE; slot <= ERR; slot++)
            if (fds[slot].fd >= 0 && fds[slot].revents)
                slot == STAGE ? started() : (void)read_stream(slot);
        if (fds[SIGNALS].revents)
            take_signals();
        for (int slot = CLIENTS; slot < FDS; slot++)
            if (fds[slot].fd >= 0 && fds[slot].revents)
                serve_client(slot);
        if (fds[LISTEN].revents)
            accept_client();
        tell_tails();
        for (int slot = 0; slot < FDS; slot++)
            fds[slot].revents = 0;
    }
}

static void open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    fds[SIGNALS].fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fds[SIGNALS].fd < 0)
        report(FAILED, "signalfd", errno);
}

/* Takes the attempt for this shim, or leaves it to the one that was first. */
static void lock_claim(void)
{
    struct stat st;
    claim_fd = open("claim", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (claim_fd < 0)
        report(FAILED, "claim", errno);
    if (flock(claim_fd, LOCK_EX | LOCK_NB) < 0)
        report(errno == EWOULDBLOCK ? ALREADY : FAILED, "claim", errno);
    if (fstat(claim_fd, &st) < 0 || st.st_size > 0 || access("status", F_OK) == 0)
        report(ALREADY, "started before", 0);
}

/* Makes durable that the process may have run: names of the directory and its parents as well. */
static void write_claim(void)
{
    bool done = dprintf(claim_fd, "%d\n", (int)getpid()) > 0;
    for (int kind = 0; kind < GROUPS && done; kind++)
        done = !*groups[kind] || dprintf(claim_fd, "%s\n", groups[kind]) > 0;
    if (done && fsync(claim_fd) == 0 && sync_directory(".") && sync_directory(".."))
        if (sync_directory("../.."))
            return;
    int error = errno;
    remove_groups();
    if (ftruncate(claim_fd, 0) < 0)
        error = errno;
    report(FAILED, "claim", error);
}

static void shim(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++)
        if (null < 0 || dup2(null, fd) < 0)
            report(FAILED, "/dev/null", errno);
    close(null);
    for (int slot = 0; slot < FDS; slot++)
        fds[slot] = (struct pollfd){.fd = -1, .events = POLLIN};
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    lock_claim();
    read_spec();
    open_signals();
    listen_here();
    status_fd = open("status.new", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (status_fd < 0)
        report(FAILED, "status", errno);
    int error = posix_fallocate(status_fd, 0, 4096);
    if (error && error != EOPNOTSUPP && error != EINVAL)
        report(FAILED, "status", error);
    open_pipes();
    if (spec.lease_at_ms && boot_ms() >= spec.lease_at_ms)
        report(FAILED, "the lease is over", 0);
    make_groups();
    write_claim();
    report(STARTED, "", 0);
    start();
    watch();
    finish();
    _exit(0);
}

int main(int argc, char **argv)
{
    int ends[2];
    char line[256];
    if (argc != 2) {
        fprintf(stderr, "usage: plum-shim DIRECTORY\n");
        return 64;
    }
    for (int fd = 0; fd >= 0 && fd < 3;)
        fd = open("/dev/null", O_RDWR);             /* 0, 1 and 2 must be taken */
    syscall(SYS_close_range, 3U, ~0U, 0U);
    if (chdir(argv[1]) < 0 || pipe2(ends, O_CLOEXEC) < 0) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return FAILED;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        report_fd = ends[1];
        shim();
    }
    close(ends[1]);
    ssize_t n = pid < 0 ? 0 : read(ends[0], line, sizeof line);
    if (n <= 0) {
        fprintf(stderr, "plum-shim ended before it started anything\n");
        return FAILED;
    }
    if (n > 1)
        fprintf(stderr, "%.*s\n", (int)n - 1, line + 1);
    return line[0];
}
