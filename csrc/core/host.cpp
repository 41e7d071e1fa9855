#include "core/host.h"

#include <unistd.h>

#include <algorithm>
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

std::string machine_identity() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  return boot.empty() ? host_name() : boot;
}

std::string host_identity() {
  std::array<char, 64> pids{};
  [[maybe_unused]] const auto length =
      ::readlink("/proc/self/ns/pid", pids.data(), pids.size() - 1);
  return text(host_name(), "/", machine_identity(), "/", pids.data());
}

cpu_set_t usable_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  ::sched_getaffinity(0, sizeof(cpus), &cpus);
  return cpus;
}

std::string written(const cpu_set_t& cpus) {
  std::string word;
  for (int cpu = 0, left = CPU_COUNT(&cpus); left > 0; ++cpu) {
    const bool usable = CPU_ISSET(cpu, &cpus) != 0;
    word += usable ? '1' : '0';
    left -= usable ? 1 : 0;
  }
  return word;
}

cpu_set_t read_cpus(const std::string& word) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (std::size_t cpu = 0; cpu < std::min<std::size_t>(word.size(), CPU_SETSIZE); ++cpu)
    if (word[cpu] == '1') CPU_SET(cpu, &cpus);
  return cpus;
}

bool is_running(int pid, unsigned long long start_time) {
  const ProcessFacts facts = facts_of(pid);
  return facts.state != 'X' && facts.state != 'Z' && facts.start_time == start_time;
}

unsigned long long start_time_of(int pid) { return facts_of(pid).start_time; }

}  // namespace quoit
