#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "backend/cpu/peak.h"
#include "base/philox.h"
#include "tensor/nf4.h"

/// Speed of the CPU backend's operations at the shapes of SmolLM2-135M. Usage: bench_ops [threads
/// [isa [cpu-time]]]. GEMM rates are given as a share of register-only multiply-adds of the same
/// threads, measured beside each of them.
namespace qshard {
namespace {

/// Seconds: wall time, or (cpu_time) the time this process spent on processors divided by its
/// threads, for machines that others use at the same time.
bool cpu_time = false;
int threads = 1;

double now() {
    timespec time{};
    clock_gettime(cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    const double seconds =
        static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    return cpu_time ? seconds / threads : seconds;
}

/// Median seconds of seven runs after one.
double median_seconds(const std::function<void()>& run) {
    run();
    std::vector<double> seconds;
    for (int repeat = 0; repeat < 7; ++repeat) {
        const double begin = now();
        run();
        seconds.push_back(now() - begin);
    }
    std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
    return seconds[3];
}

/// A backend and tensors that live as long as the program.
class Bench {
  public:
    explicit Bench(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

    void run() {
        fmt::print("isa {}, {} threads, workspace {:.1f} MB\n", b().isa(), b().threads(),
                   static_cast<double>(b().workspace_bytes()) / 1e6);
        for (std::int64_t m : {1024, 8, 1}) {
            for (const auto& [n, k] : std::vector<std::pair<std::int64_t, std::int64_t>>{
                     {576, 576}, {192, 576}, {1536, 576}, {576, 1536}}) {
                gemm(m, n, k, DType::kBF16);
            }
        }
        gemm(1024, 576, 576, DType::kF32);
        gemm(256, 49152, 576, DType::kBF16);
        gemm(256, 576, 49152, DType::kBF16);
        gemm(1024, 1024, 1024, DType::kBF16);
        lora_gradient(1024, 16, 576);
        lora_gradient(1024, 16, 1536);
        pack(1536, 576);
        attention(512, 2);
        elementwise();
        quantize();
    }

  private:
    Backend& b() { return *backend_; }

    Tensor random(std::initializer_list<std::int64_t> shape, DType dtype) {
        Tensor x(nullptr, dtype, shape);
        x = Tensor(b().allocate(x.bytes()), dtype, shape);
        const Philox stream(1, Purpose::kTestData);
        for (std::int64_t i = 0; i < x.count(); ++i) {
            const float value = stream.uniform(static_cast<std::uint64_t>(i)) - 0.5f;
            if (dtype == DType::kBF16) {
                x.as<bf16>()[i] = to_bf16(value);
            } else {
                x.as<float>()[i] = value;
            }
        }
        return x;
    }

    void gemm(std::int64_t m, std::int64_t n, std::int64_t k, DType dtype) {
        WeightView view;
        view.rows = n;
        view.cols = k;
        view.plain = random({n, k}, DType::kBF16);
        const Tensor a = random({m, k}, dtype), c = random({m, n}, dtype);
        void* packed = b().allocate(b().packed_bytes(n, k, Orientation::kForward, dtype));
        const GemmTerm term{a, b().pack(view, Orientation::kForward, dtype, packed)};
        double flops = 0;
        const double spin = median_seconds([&] { flops = spin_multiply_adds(b()); });
        const double peak = flops / spin;
        const double repeats = m < 16 ? 50 : 1;
        const double seconds = median_seconds([&] {
                                   for (int i = 0; i < repeats; ++i) {
                                       b().gemm({&term, 1}, Tensor(), c, false);
                                   }
                               }) /
                               repeats;
        const double rate = 2.0 * static_cast<double>(m * n * k) / seconds;
        fmt::print("gemm {:8} m {:5} n {:5} k {:5}  {:7.1f} GFLOP/s  {:3.0f} % of {:.1f}",
                   name_of(dtype), m, n, k, rate / 1e9, 100 * rate / peak, peak / 1e9);
        fmt::print("  {:.1f} G weights/s\n", static_cast<double>(n * k) / seconds / 1e9);
        for (void* pointer : {view.plain.data(), a.data(), c.data(), packed}) b().release(pointer);
    }

    void lora_gradient(std::int64_t n, std::int64_t m, std::int64_t k) {
        const Tensor a = random({n, m}, DType::kF32), x = random({n, k}, DType::kBF16);
        const Tensor c = random({m, k}, DType::kF32);
        const double seconds =
            median_seconds([&] { b().gemm_rows(a, x, 1.0f, DType::kBF16, c, false, false); });
        fmt::print("gemm_rows n {} m {} k {}: {:.1f} GFLOP/s\n", n, m, k,
                   2.0 * static_cast<double>(n * m * k) / seconds / 1e9);
    }

    void pack(std::int64_t rows, std::int64_t cols) {
        const auto count = static_cast<std::size_t>(rows * cols);
        const std::vector<std::uint8_t> codes(count / 2, 0x5a), q(count / 64, 77);
        const std::vector<float> absmax2(count / 64 / 256 + 1, 0.5f);
        const float offset = 0.25f;
        WeightView view;
        view.storage = Storage::kNf4;
        view.rows = rows;
        view.cols = cols;
        view.codes = codes.data();
        view.double_quant = true;
        view.absmax_codes = q.data();
        view.absmax2 = absmax2.data();
        view.absmax_offset = &offset;
        for (Orientation way : {Orientation::kForward, Orientation::kBackward}) {
            void* packed = b().allocate(b().packed_bytes(rows, cols, way, DType::kBF16));
            const double seconds =
                median_seconds([&] { b().pack(view, way, DType::kBF16, packed); });
            fmt::print("pack {} x {} {}: {:.2f} G weights/s\n", rows, cols,
                       way == Orientation::kForward ? "forward" : "backward",
                       static_cast<double>(count) / seconds / 1e9);
            b().release(packed);
        }
    }

    void attention(std::int64_t length, std::int64_t documents) {
        const std::int64_t heads = 9, kv_heads = 3, width = 64, rows = length * documents;
        std::vector<AttentionSequence> sequences;
        for (std::int64_t i = 0; i < documents; ++i) {
            sequences.push_back({i * length, length, i * length, length});
        }
        AttentionShape shape{heads, kv_heads, width, 0.125f, 0, 0, sequences};
        const Tensor q = random({rows, heads * width}, DType::kBF16);
        const Tensor k = random({rows, kv_heads * width}, DType::kBF16);
        const Tensor v = random({rows, kv_heads * width}, DType::kBF16);
        const Tensor out = random({rows, heads * width}, DType::kBF16);
        const Tensor lse = random({rows, heads}, DType::kF32);
        const Tensor dq = random({rows, heads * width}, DType::kF32);
        const Tensor dk = random({rows, kv_heads * width}, DType::kF32);
        const Tensor dv = random({rows, kv_heads * width}, DType::kF32);
        // Causal half: 2 products forward, 5 backward.
        const double product = static_cast<double>(documents * heads * width * length * length);
        double seconds = median_seconds([&] { b().attention(shape, q, k, v, out, lse); });
        fmt::print("attention forward  {} x {}: {:.2f} ms, {:.1f} GFLOP/s\n", documents, length,
                   seconds * 1e3, 2 * product / seconds / 1e9);
        seconds = median_seconds(
            [&] { b().attention_backward(shape, q, k, v, out, lse, q, dq, dk, dv); });
        fmt::print("attention backward {} x {}: {:.2f} ms, {:.1f} GFLOP/s\n", documents, length,
                   seconds * 1e3, 5 * product / seconds / 1e9);
        const AttentionSequence last{0, 1, 0, length};
        shape.sequences = {&last, 1};
        seconds = median_seconds([&] { b().attention(shape, q, k, v, out, lse); });
        fmt::print("attention of one token to {}: {:.1f} us\n", length, seconds * 1e6);
    }

    void elementwise() {
        const std::int64_t rows = 1024, width = 576, ffn = 1536;
        const Tensor x = random({rows, width}, DType::kF32),
                     y = random({rows, width}, DType::kBF16);
        const Tensor gain = random({width}, DType::kF32);
        const Tensor gate = random({rows, ffn}, DType::kBF16),
                     up = random({rows, ffn}, DType::kBF16);
        const Tensor logits = random({256, 49152}, DType::kF32),
                     logprob = random({256}, DType::kF32);
        const std::vector<std::int32_t> targets(256, 7);
        auto report = [&](const char* what, std::int64_t count, const std::function<void()>& run) {
            fmt::print("{}: {:.2f} G elements/s\n", what,
                       static_cast<double>(count) / median_seconds(run) / 1e9);
        };
        report("rms_norm", x.count(), [&] { b().rms_norm(x, gain, 1e-5f, false, y); });
        report("rms_norm_backward", x.count(),
               [&] { b().rms_norm_backward(x, gain, 1e-5f, false, y, x, true); });
        report("activate", up.count(), [&] { b().activate(Activation::kSilu, gate, up, up); });
        report("activate_backward", up.count(),
               [&] { b().activate_backward(Activation::kSilu, gate, up, up, gate, up); });
        report("log_softmax with derivative", logits.count(),
               [&] { b().log_softmax(logits, targets, 1.0f, 0.0f, logprob, logprob); });
        report("sum_of_squares", logits.count(), [&] { b().sum_of_squares(logits); });
    }

    void quantize() {
        const std::int64_t count = 1 << 20;
        const Tensor x = random({count}, DType::kF32);
        std::vector<std::uint8_t> codes(count / 2);
        std::vector<float> absmax(count / 64);
        const std::span<const float> values(x.as<float>(), static_cast<std::size_t>(count));
        const double seconds = median_seconds(
            [&] { quantize_four_bit(kNf4Code, values, codes.data(), absmax.data()); });
        fmt::print("NF4 quantizing, one thread: {:.2f} G weights/s\n",
                   static_cast<double>(count) / seconds / 1e9);
    }

    std::unique_ptr<Backend> backend_;
};

}  // namespace
}  // namespace qshard

int main(int argc, char** argv) {
    qshard::CpuOptions options;
    options.threads = argc > 1 ? std::atoi(argv[1]) : 2;
    if (argc > 2) options.isa = argv[2];
    qshard::threads = options.threads;
    qshard::cpu_time = argc > 3;
    try {
        qshard::Bench(qshard::make_cpu_backend(options)).run();
    } catch (const qshard::Error& error) {
        fmt::print(stderr, "bench_ops: {}\n", error.what());
        return static_cast<int>(error.code());
    }
    return 0;
}
