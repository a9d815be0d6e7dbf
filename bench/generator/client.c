/* The clients of the load generator. Each prints one JSON document.
   Only what lies between the times FROM and UNTIL counts; what happens before is the warm-up. */
#include "common.h"

static uint64_t from, until;
static struct sockaddr_in server;

static int dial(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval patience = {.tv_sec = 20};
  no_delay(fd);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(fd, (struct sockaddr *)&server, sizeof server) == 0) return fd;
  close(fd);
  return -1;
}

static int dial_or_fail(void) {
  int fd = dial();
  if (fd < 0) fail("no connection: %s", strerror(errno));
  return fd;
}

static int order_echo(int fd) {
  struct order order = {.mode = ECHO, .from = from, .until = until, .write = MESSAGE};
  return send_all(fd, &order, sizeof order);
}

/* One poll there and back; 0 when it did not come back as it was. */
static int poll_once(int fd, uint64_t number) {
  char out[MESSAGE] = "poll", in[MESSAGE];
  memcpy(out + 4, &number, sizeof number);
  if (!send_all(fd, out, sizeof out)) return 0;
  return recv(fd, in, sizeof in, MSG_WAITALL) == sizeof in && memcmp(in, out, sizeof in) == 0;
}

/* ---- bulk ---- */

struct stream {
  int fd;
  uint64_t mode, write, rate, sent, up, down;
};

static void *receive(void *argument) {
  struct stream *stream = argument;
  char *memory = malloc(CHUNK), tail[8] = {0};
  for (;;) {
    ssize_t count = recv(stream->fd, memory, CHUNK, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("a stream broke while it received: %s", strerror(errno));
    if (count == 0) break;
    uint64_t time = now();
    if (time >= from && time < until) stream->down += (uint64_t)count;
    if (count >= 8) {
      memcpy(tail, memory + count - 8, 8);
    } else {
      memmove(tail, tail + count, (size_t)(8 - count));
      memcpy(tail + 8 - count, memory, (size_t)count);
    }
  }
  if (stream->mode != DOWN) memcpy(&stream->up, tail, 8); /* the server's count comes last */
  free(memory);
  return NULL;
}

static void *transmit(void *argument) {
  struct stream *stream = argument;
  char *memory = calloc(1, stream->write);
  uint64_t begun = now(), time = begun;
  while (time < until) {
    if (!send_all(stream->fd, memory, stream->write))
      fail("a stream broke while it sent: %s", strerror(errno));
    stream->sent += stream->write;
    time = now();
    if (stream->rate) {
      uint64_t due = begun + (uint64_t)((double)stream->sent * 8e9 / (double)stream->rate);
      if (due > time) sleep_until(due), time = now();
    }
  }
  shutdown(stream->fd, SHUT_WR);
  free(memory);
  return NULL;
}

static void print_counts(const char *name, const struct stream *streams, int count, int up) {
  printf("\"%s\": [", name);
  for (int i = 0; i < count; i++)
    printf("%s%llu", i ? ", " : "", (unsigned long long)(up ? streams[i].up : streams[i].down));
  printf("]");
}

/* bulk STREAMS DIRECTION WRITE RATE: RATE in bit/s of each stream, 0 for no limit */
static void bulk(char **argument) {
  int count = atoi(argument[0]);
  struct stream *streams = calloc((size_t)count, sizeof *streams);
  pthread_t *threads = calloc((size_t)count * 2, sizeof *threads);
  for (int i = 0; i < count; i++) {
    struct stream *stream = &streams[i];
    stream->mode = (uint64_t)argument[1][0];
    stream->write = strtoull(argument[2], NULL, 10);
    stream->rate = strtoull(argument[3], NULL, 10);
    stream->fd = dial_or_fail();
    struct order order = {stream->mode, from, until, stream->write};
    if (!send_all(stream->fd, &order, sizeof order)) fail("the order did not go out");
  }
  if (now() > from) fail("the connections were not up before the measurement began");
  for (int i = 0; i < count; i++) {
    threads[2 * i] = start_thread(receive, &streams[i]);
    if (streams[i].mode != DOWN) threads[2 * i + 1] = start_thread(transmit, &streams[i]);
  }
  for (int i = 0; i < 2 * count; i++)
    if (threads[i]) pthread_join(threads[i], NULL);
  printf("{");
  print_counts("up", streams, count, 1);
  printf(", ");
  print_counts("down", streams, count, 0);
  printf(", \"seconds\": %.9f}\n", (double)(until - from) / 1e9);
}

/* ---- times ---- */

struct times {
  int fd;
  uint64_t period, phase, failed, late_count;
  uint64_t *took, count, room, changes;
  uint64_t *late;
};

static void keep(struct times *times, uint64_t took) {
  if (times->count == times->room) {
    times->room = times->room ? times->room * 2 : 4096;
    times->took = realloc(times->took, times->room * sizeof *times->took);
    times->late = realloc(times->late, times->room * sizeof *times->late);
  }
  if (times->count > 0) {
    uint64_t before = times->took[times->count - 1];
    times->changes += took > before ? took - before : before - took;
  }
  times->took[times->count++] = took;
}

static int by_size(const void *a, const void *b) {
  uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
  return (one > other) - (one < other);
}

/* The value that `share` of all do not exceed (nearest rank), in microseconds. */
static double rank(const uint64_t *sorted, uint64_t count, double share) {
  uint64_t place = (uint64_t)(share * (double)count + 0.9999999);
  if (place < 1) place = 1;
  if (place > count) place = count;
  return (double)sorted[place - 1] / 1e3;
}

static void report_times(struct times *all, int count) {
  static const double SHARES[] = {0.01, 0.1,  0.25, 0.5,   0.75,  0.9,
                                  0.95, 0.99, 0.995, 0.999, 0.9999, 1};
  uint64_t total = 0, failed = 0, changes = 0, late_total = 0;
  for (int i = 0; i < count; i++) {
    total += all[i].count;
    failed += all[i].failed;
    changes += all[i].changes;
    late_total += all[i].late_count;
  }
  if (total == 0) fail("nothing came back in time (%llu failed)", (unsigned long long)failed);
  uint64_t *took = malloc(total * sizeof *took), *late = malloc((late_total + 1) * sizeof *late);
  uint64_t place = 0, late_place = 0;
  for (int i = 0; i < count; i++) {
    memcpy(took + place, all[i].took, all[i].count * sizeof *took);
    memcpy(late + late_place, all[i].late, all[i].late_count * sizeof *late);
    place += all[i].count;
    late_place += all[i].late_count;
  }
  qsort(took, total, sizeof *took, by_size);
  qsort(late, late_total, sizeof *late, by_size);
  double seconds = (double)(until - from) / 1e9;
  printf("{\"count\": %llu, \"failed\": %llu, \"seconds\": %.9f, \"jitter_us\": %.3f, ",
         (unsigned long long)total, (unsigned long long)failed, seconds,
         (double)changes / 1e3 / (double)(total > 1 ? total - 1 : 1));
  if (late_total) printf("\"late_p99_us\": %.3f, ", rank(late, late_total, 0.99));
  printf("\"ranks\": {");
  for (size_t i = 0; i < sizeof SHARES / sizeof *SHARES; i++)
    printf("%s\"%g\": %.3f", i ? ", " : "", SHARES[i] * 100, rank(took, total, SHARES[i]));
  printf("}}\n");
}

/* Polls on one connection, at fixed times or one after the other. A poll that had to wait for the answer to the one
   before counts from when it was due: a stall is not hidden by the polls that it kept from being sent. */
static void *keep_polling(void *argument) {
  struct times *times = argument;
  uint64_t due = now() + times->phase, number = 0;
  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  for (;;) {
    uint64_t begun = now(), lateness = 0;
    if (times->period) {
      if (begun < due) {
        sleep_until(due);
        begun = now();
        lateness = begun - due;
      } else {
        begun = due;
      }
    }
    if (begun >= until) break;
    if (!poll_once(times->fd, number++)) fail("a poll did not come back: %s", strerror(errno));
    if (begun >= from) {
      keep(times, now() - begun);
      if (lateness) times->late[times->late_count++] = lateness;
    }
    due += times->period;
  }
  return NULL;
}

/* poll CONNECTIONS RATE: polls a second on each connection, 0 for one after the other */
static void polls(char **argument) {
  int count = atoi(argument[0]);
  double rate = atof(argument[1]);
  struct times *all = calloc((size_t)count, sizeof *all);
  pthread_t *threads = calloc((size_t)count, sizeof *threads);
  for (int i = 0; i < count; i++) {
    all[i].fd = dial_or_fail();
    all[i].period = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    all[i].phase = all[i].period * (uint64_t)i / (uint64_t)count;
    if (!order_echo(all[i].fd) || !poll_once(all[i].fd, 0)) fail("no answer to the first poll");
  }
  if (now() > from) fail("the connections were not up before the measurement began");
  for (int i = 0; i < count; i++) threads[i] = start_thread(keep_polling, &all[i]);
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  report_times(all, count);
}

static void *keep_connecting(void *argument) {
  struct times *times = argument;
  while (now() < until) {
    uint64_t begun = now();
    int fd = dial();
    int fine = fd >= 0 && order_echo(fd) && poll_once(fd, begun);
    uint64_t ended = now();
    if (fd >= 0) close(fd);
    if (begun < from) continue;
    if (fine && ended < until) keep(times, ended - begun);
    if (!fine) times->failed++, sleep_until(now() + 10000000);
  }
  return NULL;
}

/* connect CONCURRENCY: connect, one poll, close, again and again */
static void connections(char **argument) {
  int count = atoi(argument[0]);
  struct times *all = calloc((size_t)count, sizeof *all);
  pthread_t *threads = calloc((size_t)count, sizeof *threads);
  for (int i = 0; i < count; i++) threads[i] = start_thread(keep_connecting, &all[i]);
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  report_times(all, count);
}

/* hold COUNT: connections with one poll each, open until standard input ends */
static void hold(char **argument) {
  int count = atoi(argument[0]);
  for (int i = 0; i < count; i++) {
    int fd = dial();
    if (fd < 0 || !order_echo(fd) || !poll_once(fd, (uint64_t)i))
      fail("connection %d of %d was not to be had: %s", i + 1, count, strerror(errno));
  }
  printf("{\"open\": %d}\n", count);
  fflush(stdout);
  while (getchar() != EOF) {
  }
}

/* ---- datagrams ---- */

/* datagrams RATE SIZE: RATE a second, 0 for as fast as they go */
static void datagrams(char **argument) {
  double rate = atof(argument[0]);
  size_t size = strtoull(argument[1], NULL, 10);
  char memory[65536] = {0};
  if (size < sizeof(struct note) || size > sizeof memory) fail("a datagram has 24 to 65536 bytes");
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (connect(fd, (struct sockaddr *)&server, sizeof server)) fail("no route: %s", strerror(errno));
  struct note note = {COUNT, now(), 0};
  uint64_t sent = 0, begun = now(), steps = 0, warm = note.run;
  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  for (;;) {
    uint64_t time = now();
    if (rate > 0) {
      uint64_t due = begun + (uint64_t)((double)steps * 1e9 / rate);
      if (due > time) sleep_until(due), time = now();
    }
    if (time >= until) break;
    if (time >= from && note.run == warm) note.run = time;
    memcpy(memory, &note, sizeof note);
    steps++;
    if (send(fd, memory, size, 0) == (ssize_t)size && note.run != warm) sent++;
  }
  struct timeval patience = {.tv_usec = 300000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  sleep_until(now() + 300000000);
  uint64_t run = note.run;
  note.kind = ASK;
  for (int attempt = 0; attempt < 20; attempt++) {
    struct note answer;
    send(fd, &note, sizeof note, 0);
    if (recv(fd, &answer, sizeof answer, 0) == sizeof answer && answer.run == run) {
      printf("{\"sent\": %llu, \"received\": %llu, \"seconds\": %.9f}\n", (unsigned long long)sent,
             (unsigned long long)answer.count, (double)(until - from) / 1e9);
      return;
    }
  }
  fail("the server never answered how many datagrams it had received");
}

int client(int argc, char **argv) {
  static const struct {
    const char *name;
    int arguments;
    void (*run)(char **);
  } KINDS[] = {{"bulk", 4, bulk}, {"poll", 2, polls}, {"connect", 1, connections},
               {"hold", 1, hold}, {"datagrams", 2, datagrams}};
  if (argc < 5) return 0;
  server.sin_family = AF_INET;
  server.sin_port = htons((uint16_t)atoi(argv[2]));
  if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) fail("%s is no address", argv[1]);
  from = strtoull(argv[3], NULL, 10);
  until = strtoull(argv[4], NULL, 10);
  for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
    if (strcmp(argv[0], KINDS[i].name) == 0 && argc == 5 + KINDS[i].arguments) {
      KINDS[i].run(argv + 5);
      return 1;
    }
  return 0;
}

int main(int argc, char **argv) {
  struct rlimit files = {65536, 65536};
  setrlimit(RLIMIT_NOFILE, &files);
  signal(SIGPIPE, SIG_IGN);
  if (argc == 3 && strcmp(argv[1], "serve") == 0) serve(atoi(argv[2]));
  if (argc > 1 && client(argc - 1, argv + 1)) return 0;
  fail("usage: load serve PORT | load bulk|poll|connect|hold|datagrams ADDRESS PORT FROM UNTIL ...");
}
