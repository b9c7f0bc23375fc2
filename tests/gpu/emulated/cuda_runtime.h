#pragma once

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "emulator.h"

/// As much of CUDA's runtime as the backend's host code uses, over the emulator. Internal linkage:
/// a test program may be linked with the real one too. Device 0 has compute capability 9.0, device
/// 1 has 7.5.
struct CUstream_st : emulator::Stream {};
struct CUevent_st {
    CUstream_st* stream = nullptr;               ///< recorded on this one,
    std::size_t issued = 0;                      ///< after so many copies
    std::chrono::steady_clock::time_point time;  ///< then; kernels have run, copies may be ahead
};
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
constexpr int CUDART_VERSION = 13000;
constexpr unsigned cudaEventDisableTiming = 2, cudaEventBlockingSync = 1, cudaStreamNonBlocking = 1,
                   cudaHostRegisterDefault = 0;

struct cudaDeviceProp {
    char name[32];
    int major, minor, multiProcessorCount;
    std::size_t totalGlobalMem;
    struct {
        char bytes[16];
    } uuid;
};

[[maybe_unused]] static cudaError_t cudaGetDeviceCount(int* count) {
    *count = 2;
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
    *p = {"emulated", device == 0 ? 9 : 7, device == 0 ? 0 : 5, 1, std::size_t{8} << 30, {}};
    return cudaSuccess;
}
struct cudaFuncAttributes {
    int ptxVersion;
};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
    attributes->ptxVersion = 90;
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
[[maybe_unused]] static const char* cudaGetErrorString(cudaError_t) {
    return "emulated error";
}
[[maybe_unused]] static const char* cudaGetErrorName(cudaError_t) {
    return "emulated";
}
[[maybe_unused]] static cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *total = std::size_t{8} << 30;
    *free = *total - emulator::allocated();
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
    if (bytes > std::size_t{8} << 30) return cudaErrorMemoryAllocation;
    *pointer = emulator::allocate(bytes);
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaFree(void* pointer) {
    emulator::release(pointer);
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
    *pointer = std::malloc(bytes);
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaFreeHost(void* pointer) {
    std::free(pointer);
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaHostRegister(void*, std::size_t, unsigned) {
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaHostUnregister(void*) {
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                                                    cudaMemcpyKind, cudaStream_t stream) {
    stream->copy(to, from, bytes);
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes,
                                                    cudaStream_t stream) {
    stream->finish();
    emulator::open(true);
    std::memset(to, value, bytes);
    emulator::open(false);
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new CUstream_st;
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    stream->finish();
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = new CUevent_st;
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    *event = {stream, stream->issued(), std::chrono::steady_clock::now()};
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->stream != nullptr) event->stream->finish(event->issued);
    return cudaSuccess;
}
[[maybe_unused]] static cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
    return cudaEventSynchronize(event);
}
[[maybe_unused]] static cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin,
                                                         cudaEvent_t end) {
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}
