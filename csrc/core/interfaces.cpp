#include "core/interfaces.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>

#include "core/error.h"

namespace quoit {
namespace {

// Empty for other families than IPv4 and IPv6.
std::string address_of(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address == nullptr) return {};
  if (address->sa_family == AF_INET)
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text,
                sizeof text);
  else if (address->sa_family == AF_INET6)
    ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, text,
                sizeof text);
  return text;
}

bool is_loopback(const std::string& address) {
  return address == "::1" || address.starts_with("127.");
}

bool is_link_local(const std::string& address) {
  in6_addr parsed{};
  return ::inet_pton(AF_INET6, address.c_str(), &parsed) == 1 && IN6_IS_ADDR_LINKLOCAL(&parsed);
}

// What QUOIT_IFACE asks for. A list that begins with "^" leaves out all its names.
struct Names {
  explicit Names(const std::string& list) {
    std::istringstream parts(list);
    for (std::string name; std::getline(parts, name, ',');) {
      const std::size_t begin = name.find_first_not_of(" ^");
      if (begin == std::string::npos) continue;
      const bool out = list.starts_with("^") || name.find('^') < begin;
      (out ? left_out : wanted).insert(name.substr(begin, name.find_last_not_of(' ') + 1 - begin));
    }
  }

  std::set<std::string> wanted;
  std::set<std::string> left_out;
};

std::string joined(const std::set<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

}  // namespace

std::vector<Interface> interfaces() {
  ifaddrs* head = nullptr;
  QUOIT_CHECK(::getifaddrs(&head) == 0, UnavailableError,
              "the network interfaces of this host cannot be listed: ", std::strerror(errno));
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> list(head, ::freeifaddrs);
  std::vector<Interface> found;
  for (const ifaddrs* one = head; one != nullptr; one = one->ifa_next) {
    std::string address = (one->ifa_flags & IFF_UP) != 0 ? address_of(one->ifa_addr) : "";
    if (!address.empty()) found.push_back({one->ifa_name, std::move(address)});
  }
  return found;
}

std::vector<Interface> reachable(const std::vector<Interface>& found, const std::string& chosen) {
  const Names names(chosen);
  std::set<std::string> known, unknown;
  for (const Interface& one : found) known.insert(one.name);
  std::set_difference(names.wanted.begin(), names.wanted.end(), known.begin(), known.end(),
                      std::inserter(unknown, unknown.end()));
  QUOIT_CHECK(unknown.empty(), UsageError, "QUOIT_IFACE=", chosen, " asks for ", joined(unknown),
              ", but this host has ", joined(known), ". Correct or unset QUOIT_IFACE.");
  std::vector<Interface> usable;
  for (const Interface& one : found) {
    const bool named = names.wanted.contains(one.name);
    if (is_link_local(one.address) || (is_loopback(one.address) && !named)) continue;
    if ((named || names.wanted.empty()) && !names.left_out.contains(one.name))
      usable.push_back(one);
  }
  return usable;
}

}  // namespace quoit
