#pragma once
// What is asked of an accelerator's streams and c10 does not tell on every torch, or not for every
// device.
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace quoit {

// The device's own handle of a stream (cudaStream_t).
void* native_handle(const c10::Stream& stream);

// Whether what is put into the stream now becomes part of a graph.
bool is_capturing(const c10::Stream& stream);

// For a thread of ours that asks for events: does not invalidate captures of other threads.
void tolerate_captures();

}  // namespace quoit
