/* Makes memory patterns on command: one a line on standard input, one line of "name=number" fields back.
 *
 *   cc -O0 -pthread -o patterns patterns.c
 *
 * Commands: the names in `patterns` below; "tell" (mallinfo2 and RSS now); "trim" (malloc_trim(0), RSS before and after);
 * "free" (free all that is kept); "hammer" and "rest" (four threads that allocate and free until told to rest).
 * Everything the program itself needs is static or on the stack, so that telling changes nothing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST 400000
static void *kept[MOST];
static int count;

static void *take(size_t size) {
    char *p = malloc(size);
    if (p == NULL) abort();
    memset(p, 1, size);
    return p;
}

static long rss(void) { /* smaps_rollup, without malloc */
    static char text[4096];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    char *at = strstr(text, "Rss:");
    return at ? atol(at + 4) * 1024 : -1;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
#include <stdarg.h>
static void say(const char *format, ...) {
    static char line[1024];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (write(1, line, length) != length) _exit(3);
}

static void tell(void) {
    struct mallinfo2 m = mallinfo2();
    long now = rss();
    say("arena=%zu hblks=%zu hblkhd=%zu fsmblks=%zu uordblks=%zu fordblks=%zu rss=%ld kept=%d\n", m.arena, m.hblks,
        m.hblkhd, m.fsmblks, m.uordblks, m.fordblks, now, count);
}

static void keep(size_t size, int n) {
    for (int i = 0; i < n && count < MOST; i++) kept[count++] = take(size);
}

static void release(int from, int step) {
    for (int i = from; i < count; i += step) { free(kept[i]); kept[i] = NULL; }
}

static void plain(void) { keep(1000, 20000); }
static void every_other(void) { keep(1000, 20000); release(0, 2); }
static void all_but_last(void) { keep(1000, 20000); for (int i = 0; i < count - 1; i++) { free(kept[i]); kept[i] = NULL; } }
static void question(void) { for (int i = 0; i < 16000; i++) { keep(4186, 1); keep(8, 1); } release(0, 2); }
static void mmapped(void) { mallopt(M_MMAP_THRESHOLD, 128 << 10); for (int i = 0; i < 20; i++) keep((200 + 37 * i) << 10, 1);
    void *p; if (posix_memalign(&p, 4096, 1 << 20)) abort(); memset(p, 1, 1 << 20); kept[count++] = p; }
static void untouched(void) { for (int i = 0; i < 300; i++) { kept[count] = malloc(100000); if (!kept[count++]) abort(); } }
static void tcache_full(void) {
    for (int size = 24; size <= 1032; size += 16) {
        void *p[16];
        for (int i = 0; i < 16; i++) p[i] = take(size);
        for (int i = 0; i < 16; i++) free(p[i]);
    }
}
static void fastbins(void) { keep(56, 5000); release(0, 1); keep(120, 3000); release(5001, 2); }
static void trimmed(void) { all_but_last(); malloc_trim(0); keep(3000, 50); }

/* something else moves the end of the heap */
static void foreign_sbrk(void) { keep(1000, 3000); char *p = sbrk(64 << 10); if (p == (void *)-1) abort(); memset(p, 7, 64 << 10);
    keep(1000, 3000); p = sbrk(12 << 10); memset(p, 0, 12 << 10); keep(1500, 3000); release(0, 3); }
static void foreign_top(void) { keep(1000, 3000); char *p = sbrk(64 << 10); if (p == (void *)-1) abort(); memset(p, 7, 64 << 10);
    release(0, 2); }
/* something else stands right behind the heap: malloc goes on in mappings of 1 MiB */
static void blocked(void) { keep(1000, 1000);
    char *end = sbrk(0); char *at = (char *)(((size_t)end + 4095) & -4096L);
    if (mmap(at, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at) abort();
    keep(1000, 20000); release(0, 2); }

/* threads: each keeps an arena of its own busy, and lives on */
static pthread_barrier_t ready, never;
static atomic_int mode;
static void *worker(void *argument) {
    static __thread void *mine[4000];
    long number = (long)argument;
    int n = 4000;
    for (int i = 0; i < n; i++) mine[i] = take(700 + 16 * (int)number);
    for (int i = 0; i < n; i++) if (mode == 2 || (mode == 1 && i % 2)) free(mine[i]);
    pthread_barrier_wait(&ready);
    pthread_barrier_wait(&never);  /* not pause(): its first call maps pages of libc in after main has told its RSS */
    return NULL;
}
static void start(int kind, int threads) {
    pthread_t thread;
    mode = kind;
    pthread_barrier_init(&ready, NULL, threads + 1);
    pthread_barrier_init(&never, NULL, threads + 1);
    for (long i = 0; i < threads; i++) if (pthread_create(&thread, NULL, worker, (void *)i)) abort();
    pthread_barrier_wait(&ready);
}
static void threads(void) { start(0, 8); }
static void threads_every_other(void) { start(1, 8); }
static void arena_tops(void) { mallopt(M_TRIM_THRESHOLD, 62 << 20); start(2, 8); }

static atomic_int hammering;
static atomic_long rounds;
static void *hammer(void *argument) {
    void *mine[256] = {0};
    unsigned seed = (unsigned)(long)argument;
    while (hammering) {
        seed = seed * 1103515245 + 12345;
        int i = (seed >> 16) & 255;
        if (mine[i]) { free(mine[i]); mine[i] = NULL; }
        else { size_t size = 16 + (seed >> 8) % 3000; mine[i] = malloc(size); memset(mine[i], 1, size); }
        rounds++;
    }
    for (int i = 0; i < 256; i++) free(mine[i]);
    return NULL;
}
static pthread_t hammers[4];
static void begin_hammering(void) { hammering = 1; keep(1000, 5000); release(0, 2);
    for (long i = 0; i < 4; i++) pthread_create(&hammers[i], NULL, hammer, (void *)(i + 1)); }
static void rest(void) { hammering = 0; for (int i = 0; i < 4; i++) pthread_join(hammers[i], NULL); }

static void nothing(void) {}
static void release_all(void) { release(0, 1); count = 0; }

static struct { const char *name; void (*make)(void); } patterns[] = {
    {"tell", nothing}, {"free", release_all}, {"plain", plain}, {"every_other", every_other},
    {"all_but_last", all_but_last}, {"question", question}, {"mmapped", mmapped}, {"untouched", untouched},
    {"tcache_full", tcache_full}, {"fastbins", fastbins}, {"trimmed", trimmed}, {"foreign_sbrk", foreign_sbrk},
    {"foreign_top", foreign_top}, {"blocked", blocked}, {"threads", threads}, {"threads_every_other", threads_every_other},
    {"arena_tops", arena_tops}, {"hammer", begin_hammering}, {"rest", rest},
};

int main(void) {
    static char line[128];
    int at = 0;
    while (read(0, line + at, 1) == 1) {
        if (line[at] != '\n') { if (at < (int)sizeof line - 1) at++; continue; }
        line[at] = 0;
        at = 0;
        if (!strcmp(line, "trim")) {
            long before = rss();
            malloc_trim(0);
            say("before=%ld after=%ld\n", before, rss());
            continue;
        }
        int found = 0;
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
            if (!strcmp(line, patterns[i].name)) { patterns[i].make(); found = 1; }
        if (!found) { say("unknown=1\n"); continue; }
        tell();
    }
    return 0;
}
