#include "backend/cuda/cuda_backend.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "backend/cuda/sizes.h"
#include "backend/cuda/stream_clock.h"
#include "backend/cuda/tiles.h"
#include "tensor/nf4.h"

namespace qshard::cuda {
namespace {

std::size_t free_bytes() {
    std::size_t free = 0, total = 0;
    require(cudaMemGetInfo(&free, &total), "asking for the free memory");
    return free;
}

}  // namespace

CudaBackend::CudaBackend(const CudaOptions& options) : options_(options) {
    open_device();
    void* pointer = nullptr;
    require(cudaMalloc(&pointer, kWorkspaceBytes), "taking the workspace");
    workspace_ = static_cast<std::byte*>(pointer);
    dynamic_map_ = reinterpret_cast<float*>(workspace_);
    library_ = workspace_ + kMapBytes;
    operand_ = library_ + kLibraryBytes;
    results_ = operand_ + kOperandBytes;
    staging_ = std::make_unique<Staging>(stream_);
    uploads_ = std::make_unique<Uploads>(stream_);
    matmul_ = make_matmul(stream_, library_, kLibraryBytes);
    staging_->upload(dynamic_map_, kDynamicMap.data(), sizeof kDynamicMap);
    // A little stays for what the driver loads with the first launch of a kernel.
    memory_bytes_ =
        free_bytes() / static_cast<std::size_t>(options.sharing) / 20 * 19 + workspace_bytes();
}

void CudaBackend::open_device() {
    const CudaPlatform platform = cuda_platform();
    if (options_.device >= static_cast<int>(platform.devices.size())) {
        throw SystemError(ExitCode::kUnavailable,
                          platform.devices.empty()
                              ? "no GPU to compute with: " + platform.problem
                              : fmt::format("there is no GPU {}; this host has {}", options_.device,
                                            platform.devices.size()));
    }
    const CudaDevice& device = platform.devices[static_cast<std::size_t>(options_.device)];
    isa_ = fmt::format("sm_{}{}", device.major, device.minor);
    device_ = device.index;
    require(cudaSetDevice(device_), "opening the device");
    tensor_cores_ = device.major >= 8 && compiled_for() >= 80;
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    free_at_start_ = free_bytes();
}

CudaBackend::~CudaBackend() {
    cudaStreamSynchronize(stream_);
    matmul_.reset();
    uploads_.reset();
    staging_.reset();
    cudaFree(workspace_);
    cudaStreamDestroy(stream_);
}

std::size_t CudaBackend::workspace_bytes() const {
    return kOwnBytes;
}

std::size_t CudaBackend::taken_bytes() const {
    const std::size_t free = free_bytes();
    return free_at_start_ > free ? free_at_start_ - free : 0;
}

void* CudaBackend::allocate(std::size_t bytes) {
    void* pointer = nullptr;
    const cudaError_t error = cudaMalloc(&pointer, std::max<std::size_t>(bytes, 1));
    if (error != cudaSuccess) {
        cudaGetLastError();
        std::size_t free = 0, total = 0;
        cudaMemGetInfo(&free, &total);
        throw SystemError(ExitCode::kUnavailable,
                          fmt::format("cannot allocate {} bytes on GPU {}, which has {} of {} free",
                                      bytes, options_.device, free, total));
    }
    return pointer;
}

void CudaBackend::release(void* pointer) {
    uploads_->drain();
    cudaStreamSynchronize(stream_);
    cudaFree(pointer);
}

void CudaBackend::upload(void* device, const void* host, std::size_t bytes) {
    staging_->upload(device, host, bytes);
}

void CudaBackend::download(void* host, const void* device, std::size_t bytes) {
    staging_->download(host, device, bytes);
}

bool CudaBackend::pin(void* host, std::size_t bytes) {
    if (cudaHostRegister(host, bytes, cudaHostRegisterDefault) == cudaSuccess) return true;
    cudaGetLastError();
    return false;
}

void CudaBackend::unpin(void* host) {
    uploads_->drain();
    cudaHostUnregister(host);
}

void CudaBackend::start_upload(void* device, const void* host, std::size_t bytes) {
    uploads_->start(device, host, bytes);
}

void CudaBackend::finish_upload() {
    uploads_->finish();
}

void CudaBackend::synchronize() {
    require(cudaStreamSynchronize(stream_), "waiting for the device");
}

std::function<void()> CudaBackend::pending() {
    cudaEvent_t event = nullptr;
    require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
            "making an event");
    const std::shared_ptr<CUevent_st> owner(event, cudaEventDestroy);
    require(cudaEventRecord(event, stream_), "recording an event");
    return [owner, device = device_] {
        require(cudaSetDevice(device), "opening the device");
        require(cudaEventSynchronize(owner.get()), "waiting for the device");
    };
}

std::unique_ptr<SectionClock> CudaBackend::make_section_clock(int sections) {
    return std::make_unique<StreamClock>(stream_, sections);
}

void CudaBackend::fill_zero(Tensor out) {
    if (out.bytes() > 0)
        require(cudaMemsetAsync(out.data(), 0, out.bytes(), stream_), "filling with zeros");
}

}  // namespace qshard::cuda

namespace qshard {

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
    return std::make_unique<cuda::CudaBackend>(options);
}

}  // namespace qshard
