#pragma once
// The addresses of this host.
#include <string>
#include <vector>

namespace quoit {

struct Interface {
  std::string name;     // "eth0"
  std::string address;  // "10.0.0.7" or "2001:db8::7"
};

// Every IPv4 and IPv6 address of this host, loopback included, in the kernel's order.
std::vector<Interface> interfaces();

// Those of `found` that another host may connect to, narrowed by QUOIT_IFACE's value: names joined
// by commas ("eth0,ib0"), or with a "^" names to leave out ("eth0,^docker0"), all of them where the
// list begins with it ("^docker0,virbr0"); "" takes all. Loopback and
// link-local IPv6 addresses mean something else on another host: they are left out, unless loopback
// is asked for by its name. Throws UsageError when a name that was asked for does not exist.
std::vector<Interface> reachable(const std::vector<Interface>& found, const std::string& chosen);

}  // namespace quoit
