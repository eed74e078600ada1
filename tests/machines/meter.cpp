// A service as people write them: meter PORT FOLDER. It answers each request with who it is,
// registers itself as `meter-self` by the C SDK, and writes into FOLDER from when to when it lived,
// by CLOCK_BOOTTIME, which all machines of a test share.
#include <plum.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

namespace {

std::atomic<bool> leaving{false};
std::atomic<int> busy{0};

std::string named(const char *name) {
  const char *found = std::getenv(name);
  return found == nullptr ? "" : found;
}

long long now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void rest_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

void keep_diary(const std::string &folder, const std::string &about) {
  const long long first = now_ns();
  const std::string path = folder + "/" + std::to_string(first) + "-" + about;
  const int file = open(path.c_str(), O_WRONLY | O_CREAT, 0644);
  for (;;) {
    char line[64];
    const int size = std::snprintf(line, sizeof line, "%020lld %020lld\n", first, now_ns());
    if (file < 0 || pwrite(file, line, size, 0) != size)
      std::abort();
    rest_ms(2);
  }
}

void serve(int line, const std::string &answer) {
  std::string request;
  char piece[4096];
  for (ssize_t size; (size = read(line, piece, sizeof piece)) > 0;) {
    request.append(piece, static_cast<size_t>(size));
    const size_t head = request.find("\r\n\r\n");
    if (head == std::string::npos)
      continue;
    size_t wanted = 0;
    for (const char *name : {"Content-Length: ", "content-length: "}) {
      const size_t at = request.find(name);
      if (at < head)
        wanted = std::strtoul(request.c_str() + at + 16, nullptr, 10);
    }
    if (request.size() >= head + 4 + wanted)
      break;
  }
  const std::string text = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json"
                           "\r\nContent-Length: " + std::to_string(answer.size()) + "\r\n\r\n"
                           + answer;
  if (write(line, text.data(), text.size()) < 0)
    std::perror("write");
  shutdown(line, SHUT_WR);
  while (read(line, piece, sizeof piece) > 0) {
  }
  close(line);
  busy--;
}

void accept_all(int listener, const std::string &answer) {
  while (!leaving) {
    const int line = accept(listener, nullptr, nullptr);
    if (line < 0)
      continue;
    busy++;
    std::thread(serve, line, answer).detach();
  }
}

void register_self(int port, const std::string &instance) {
  plum::Client client;
  const std::string version = named("PLUM_APP_VERSION");
  const plum_endpoint own = {"meter-self", instance.c_str(), nullptr, nullptr, port, "http",
                             version.c_str()};
  bool known = false;
  while (!leaving) {
    const plum_status done = known
        ? plum_service_heartbeat(client.get(), instance.c_str(), &own, 1, 1)
        : plum_service_register(client.get(), instance.c_str(), &own, 1);
    known = done == PLUM_OK;
    rest_ms(300);
  }
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 3)
    return 64;
  const int port = std::atoi(argv[1]);
  const std::string id = named("PLUM_INSTANCE_ID"), node = named("WORKER_NODE_ID"),
                    version = named("PLUM_APP_VERSION");
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listener, reinterpret_cast<sockaddr *>(&where), sizeof where) < 0
      || listen(listener, 128) < 0) {
    std::perror("listen");
    return 1;
  }
  const std::string answer = "{\"instance\":\"" + id + "\",\"node\":\"" + node
                             + "\",\"version\":\"" + version + "\"}";
  std::thread(keep_diary, std::string(argv[2]), id + "-" + node).detach();
  std::thread(accept_all, listener, answer).detach();
  std::thread(register_self, port, id + "-self").detach();
  std::printf("meter %s listens on %d\n", version.c_str(), port);
  std::fflush(stdout);
  int number = 0;
  sigwait(&ends, &number);
  leaving = true;
  for (int i = 0; i < 500 && busy > 0; i++)
    rest_ms(10);
  std::_Exit(0);
}
