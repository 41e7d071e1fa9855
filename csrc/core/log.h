#pragma once
// What the runtime tells about its decisions, on stderr, when QUOIT_LOG asks for it.
#include <string>

namespace quoit::log {

// Whether QUOIT_LOG=debug. Throws UsageError for a level that is none.
bool debug();

// One line, whole even when several threads and processes write.
void write(const std::string& line);

}  // namespace quoit::log
