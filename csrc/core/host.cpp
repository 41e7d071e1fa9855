#include "core/host.h"

#include <unistd.h>

#include <array>
#include <fstream>
#include <sstream>

#include "core/env.h"
#include "core/error.h"

namespace quoit {
namespace {

struct ProcessFacts {
  char state = 'X';
  unsigned long long start_time = 0;
};

// Fields 3 and 22 of /proc/PID/stat; the name in field 2 may hold spaces and brackets.
ProcessFacts facts_of(int pid) {
  std::ifstream file(text("/proc/", pid, "/stat"));
  std::string line;
  std::getline(file, line);
  const std::size_t end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos) return {};
  std::istringstream rest(line.substr(end_of_name + 1));
  ProcessFacts facts;
  rest >> facts.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) rest >> skipped;
  rest >> facts.start_time;
  return facts;
}

}  // namespace

std::string host_name() {
  if (const auto chosen = env::read("QUOIT_HOST")) return *chosen;
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown-host";
}

std::string host_identity() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::array<char, 64> pids{};
  [[maybe_unused]] const auto length =
      ::readlink("/proc/self/ns/pid", pids.data(), pids.size() - 1);
  return text(host_name(), "/", boot, "/", pids.data());
}

cpu_set_t usable_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  ::sched_getaffinity(0, sizeof(cpus), &cpus);
  return cpus;
}

bool is_running(int pid, unsigned long long start_time) {
  const ProcessFacts facts = facts_of(pid);
  return facts.state != 'X' && facts.state != 'Z' && facts.start_time == start_time;
}

unsigned long long start_time_of(int pid) { return facts_of(pid).start_time; }

}  // namespace quoit
