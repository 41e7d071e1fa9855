#pragma once
// Which machine this is, and what of it we may use.
#include <sched.h>

#include <string>

namespace quoit {

// The host's name as people know it (QUOIT_HOST overrides it).
std::string host_name();

// Equal for two processes exactly when they run on one machine, in whatever containers: then they
// share its cores. Another one after each boot.
std::string machine_identity();

// Equal for two processes exactly when they can share memory: host name, boot and pid namespace.
std::string host_identity();

// The CPUs this process may run on; as a word for others, and read again.
cpu_set_t usable_cpus();
std::string written(const cpu_set_t& cpus);
cpu_set_t read_cpus(const std::string& word);

// Whether process `pid`, which started at `start_time`, still runs (a zombie does not).
bool is_running(int pid, unsigned long long start_time);

// When process `pid` started, in clock ticks since boot; 0 when there is no such process.
unsigned long long start_time_of(int pid);

}  // namespace quoit
