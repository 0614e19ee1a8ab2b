// Checks with messages for users.
#pragma once

#include <sstream>
#include <stdexcept>

namespace streamgan {

// Throws what `parts` say, joined, unless `condition` holds. Python gets a RuntimeError.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace streamgan
