// The C++ worker of the conformance suite: worker URL ID NAME NOTES BEAT_MS
//
// What a payload asks for stands in tests/clients/orders.py. Each start of an attempt is a line in
// NOTES, the end of one that was held another, with a dash. SIGTERM drains.
#include <plum.hpp>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <string>
#include <thread>
#include <unistd.h>

static plum_worker *serving;
static int notes = -1;

static void on_signal(int) { plum_worker_drain(serving); }

static void note(const std::string &line)
{
  if (write(notes, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    std::abort();
}

static std::string act(plum::Attempt &attempt)
{
  note(attempt.id() + "\n");
  const plum::Json order = attempt.json();
  const std::string wish = order["do"].str();
  if (wish == "echo")
    return order["with"].raw();
  if (wish == "who")
    return std::to_string(getpid());
  if (wish == "big")
    return plum::quote(std::string(static_cast<std::size_t>(order["size"].integer()), 'x'));
  if (wish == "fail")
    throw plum::TaskFailed(order["with"].str(), "asked", order["retry"].boolean(true));
  const std::string gate = order["gate"].str();
  if (wish == "talk") {
    int count = 0;
    for (; access(gate.c_str(), F_OK) != 0 && !attempt.canceled(); count++) {
      attempt.log(std::to_string(count) + " \"\u00e9\U0001d11e\u2028\"\t\\"
                  + (count % 2 != 0 ? "\n" : ""));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return std::to_string(count);
  }
  while (access(gate.c_str(), F_OK) != 0 && !attempt.canceled())
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  note("-" + attempt.id() + "\n");
  if (attempt.canceled())
    attempt.stopped();
  return "\"held\"";
}

int main(int argc, char **argv)
{
  if (argc != 6)
    return 2;
  notes = open(argv[4], O_WRONLY | O_CREAT | O_APPEND, 0600);
  plum::Worker worker(argv[1]);
  worker.id(argv[2]).capacity(16).beat_ms(std::atoi(argv[5])).drain_timeout_ms(20000);
  worker.task(argv[3], act);
  serving = worker.get();
  std::signal(SIGTERM, on_signal);
  return worker.run(16).code();
}
