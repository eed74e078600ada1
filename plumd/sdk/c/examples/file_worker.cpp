// A worker that processes files: {"path": ..., "pattern": ...} counts the lines that hold the
// pattern, with progress, log lines, cancellation and advice about retries.
//
//   cc -O2 -I. -c plum.c && c++ -std=c++14 -O2 -I. -o file_worker file_worker.cpp plum.o -lpthread
//   ./file_worker http://127.0.0.1:8080 [directory for results that the daemon does not have yet]
#include <plum.hpp>

#include <csignal>
#include <fstream>
#include <iostream>
#include <sys/stat.h>

static plum::Worker *running = nullptr;

static void on_signal(int) { running->drain(); }

static std::string count_lines(plum::Attempt &attempt) {
  const plum::Json payload = attempt.json();
  const std::string path = payload["path"].str(), pattern = payload["pattern"].str();
  struct stat about;
  if (path.empty())
    throw plum::TaskFailed("the path is missing", "bad_payload", false);
  std::ifstream file(path);
  if (!file || stat(path.c_str(), &about) != 0)
    throw plum::TaskFailed("cannot open " + path, "no_file", true, 1000);
  std::string line;
  long lines = 0, found = 0;
  double done = 0;
  while (std::getline(file, line)) {
    lines++;
    done += static_cast<double>(line.size()) + 1;
    if (line.find(pattern) != std::string::npos)
      found++;
    if (lines % 10000 == 0) {
      attempt.progress(about.st_size > 0 ? done / static_cast<double>(about.st_size) : 1);
      if (attempt.canceled()) {
        attempt.stopped();
        return "null";
      }
    }
  }
  attempt.log(path + ": " + std::to_string(lines) + " lines");
  return "{\"path\":" + plum::quote(path) + ",\"lines\":" + std::to_string(lines)
         + ",\"found\":" + std::to_string(found) + "}";
}

int main(int argc, char **argv) {
  try {
    plum::Worker worker(argc > 1 ? argv[1] : "");
    running = &worker;
    worker.capacity(4)
        .log([](int, const std::string &text) { std::cerr << text << std::endl; })
        .task("count-lines", count_lines);
    if (argc > 2)
      worker.directory(argv[2]);
    std::signal(SIGTERM, on_signal);
    std::signal(SIGINT, on_signal);
    worker.run(4).check();
  } catch (const std::exception &error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
  return 0;
}
