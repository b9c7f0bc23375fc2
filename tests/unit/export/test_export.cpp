#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "../formats/files.h"
#include "io/export/gguf_adapter.h"
#include "io/export/gguf_file.h"
#include "io/export/gguf_metadata.h"
#include "io/export/hf_config.h"
#include "io/export/hf_folder.h"
#include "io/export/same_model.h"
#include "io/formats/gguf_model.h"
#include "io/formats/model_reader.h"
#include "io/tokenizer/to_gguf.h"
#include "place/merged_weights.h"
#include "tensor/int8.h"
#include "tensor/nf4.h"
#include "tensor/rounding.h"

/// Written models read back weight for weight, and merged weights are what the formula says.
namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;
using testing::expect_refused;

const fs::path kTiny = fs::path(QSHARD_TEST_DATA) / "golden" / "tiny";

const std::vector<std::string> kFamilies = {
    "llama",  "llama_tied", "mistral", "qwen2",      "qwen3",        "gemma",
    "gemma2", "gemma3",     "granite", "starcoder2", "phi3",         "olmo2",
    "gpt2",   "llama_bias", "mixtral", "qwen3_moe",  "phi3_longrope"};

std::vector<float> values_of(const WeightReader& reader, const WeightSpec& weight) {
    std::vector<float> values(static_cast<std::size_t>(weight.count()));
    reader.read(weight, 0, values);
    return values;
}

void expect_same_weights(const WeightReader& a, const WeightReader& b, float tolerance,
                         const std::string& what) {
    EXPECT_EQ(difference_of(a.config(), b.config()), "") << what;
    for (const PlacedWeight& placed : all_weights(a.config())) {
        const std::vector<float> x = values_of(a, placed.weight), y = values_of(b, placed.weight);
        for (std::size_t i = 0; i < x.size(); ++i) {
            ASSERT_LE(std::abs(x[i] - y[i]), tolerance)
                << what << " " << placed.weight.name << " " << i;
        }
    }
}

TEST(SameModel, DocumentsBeyondTheOriginalLengthAreComparedToo) {
    const ModelConfig a = open_model(kTiny / "phi3_longrope")->config();
    ModelConfig b = a;
    EXPECT_EQ(difference_of(a, b), "");
    b.ropes[0].long_factor[3] += 0.5;
    EXPECT_EQ(difference_of(a, b), "rotary positions");
    b = a;
    b.ropes[0].original_max_positions = 12;
    EXPECT_EQ(difference_of(a, b), "rotary positions");
}

struct Adapted {
    AdapterLayout layout;
    std::vector<float> values;
};

Adapted adapter_for(const ModelConfig& config, std::vector<std::string> modules,
                    bool rslora = false, bool dora = false) {
    AdapterOptions options;
    options.r = 4;
    options.alpha = 8;
    options.use_rslora = rslora;
    options.use_dora = dora;
    options.target_modules = std::move(modules);
    Adapted adapted{make_adapter_layout(config, options), {}};
    adapted.values.resize(static_cast<std::size_t>(adapted.layout.count));
    testing::Lcg random{7};
    for (float& value : adapted.values)
        value = static_cast<float>(random.next() >> 8) * 0x1p-24f - 0.5f;
    return adapted;
}

ExportOptions as(DType dtype) {
    ExportOptions options;
    options.dtype = dtype;
    return options;
}

/// A model's weights under another configuration.
class WithConfig final : public WeightReader {
  public:
    WithConfig(const WeightReader& inner, ModelConfig config)
        : inner_(inner), config_(std::move(config)) {}
    const ModelConfig& config() const override { return config_; }
    DType source_dtype(const WeightSpec& w) const override { return inner_.source_dtype(w); }
    void read(const WeightSpec& w, std::int64_t first, std::span<float> out) const override {
        inner_.read(w, first, out);
    }
    std::string sha256() const override { return inner_.sha256(); }
    std::int64_t file_bytes() const override { return inner_.file_bytes(); }

  private:
    const WeightReader& inner_;
    ModelConfig config_;
};

TEST(GgufModel, EveryWeightReadsBackInEveryFamily) {
    const TempFolder folder;
    for (const std::string& family : kFamilies) {
        const auto model = open_model(kTiny / family);
        const fs::path file = folder.path() / (family + ".gguf");
        ExportOptions options;
        options.dtype = DType::kF32;
        options.threads = 3;
        const auto write = [&] {
            write_gguf_model(file, *model, gguf_metadata_of(model->config()), options);
        };
        // llama.cpp knows only the attention scales of the published Gemmas 2 and 3.
        if (family == "gemma2" || family == "gemma3") {
            expect_refused(write, "attention scale", family);
            continue;
        }
        if (family == "qwen3_moe") {  // llama.cpp normalizes the probabilities always
            expect_refused([&] { gguf_metadata_of(model->config()); }, "norm_topk_prob", family);
            continue;
        }
        write();
        // 1 + w - 1 loses the last bits of a Gemma's gains.
        const float tolerance = model->config().norm_offset ? 1e-7f : 0.0f;
        expect_same_weights(*model, *open_model(file), tolerance, family);
    }
}

TEST(GgufModel, LongPositionsReadBack) {
    const TempFolder folder;
    const auto model = open_model(kTiny / "phi3");
    ModelConfig config = model->config();
    RopeConfig& rope = config.ropes.at(0);
    rope.kind = RopeKind::kLongrope;
    rope.original_max_positions = 16;
    rope.factor = 4.0;
    rope.short_factor = {1, 1.5, 2, 2.5, 3, 3.5};
    rope.long_factor = {2, 3, 4, 5, 6, 7};
    const WithConfig stretched(*model, config);
    const fs::path file = folder.path() / "long.gguf";
    write_gguf_model(file, stretched, gguf_metadata_of(config), as(DType::kF32));
    const RopeConfig read = open_model(file)->config().ropes.at(0);
    EXPECT_EQ(read.short_factor, rope.short_factor);
    EXPECT_EQ(read.long_factor, rope.long_factor);
    EXPECT_EQ(read.original_max_positions, 16);
    EXPECT_FLOAT_EQ(static_cast<float>(*read.attention_factor), std::sqrt(1.5f));
    const auto written = hf_config_of(open_model(file)->config(), DType::kF32);
    EXPECT_EQ(written.at("original_max_position_embeddings"), 16);
}

TEST(GgufModel, MetadataOfAnotherFileIsCarriedOver) {
    const TempFolder folder;
    const auto model = open_model(kTiny / "llama");
    GgufHeader metadata = gguf_metadata_of(model->config());
    metadata.texts("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"});
    metadata.u32("general.quantization_version", 2);
    const fs::path first = folder.path() / "first.gguf", second = folder.path() / "second.gguf";
    write_gguf_model(first, *model, metadata, as(DType::kBF16));
    write_gguf_model(second, *open_model(first), gguf_metadata_like(GgufFile(InputFile(first))),
                     as(DType::kF16));
    const GgufFile copy{InputFile(second)};
    EXPECT_EQ(copy.texts("tokenizer.ggml.tokens")->size(), 2u);
    EXPECT_FALSE(copy.has("general.quantization_version"));
    EXPECT_EQ(copy.integer("general.file_type"), 1);
    EXPECT_EQ(copy.find("blk.0.attn_q.weight")->type, GgmlType::kF16);
    EXPECT_EQ(copy.find("blk.0.attn_norm.weight")->type, GgmlType::kF32);
}

TEST(GgufModel, ALayerPatternThatGgufCannotSayIsRefusedAndNothingIsLeft) {
    const TempFolder folder;
    const auto model = open_model(kTiny / "llama");
    ModelConfig config = model->config();
    config.layer[1].window = 8;  // of one layer only
    const WithConfig odd(*model, config);
    expect_refused(
        [&] {
            write_gguf_model(folder.path() / "odd.gguf", odd, gguf_metadata_of(odd.config()), {});
        },
        "cannot express this model's sliding window", "odd layers");
    EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(HuggingFaceFolder, ShardsReadBackAndConfigSaysTheDtype) {
    const TempFolder folder;
    for (const std::string& family : kFamilies) {
        const auto model = open_model(kTiny / family);
        const fs::path out = folder.path() / family;
        ExportOptions options;
        options.dtype = DType::kF32;
        options.max_shard_bytes = 40000;
        std::int64_t last = 0;
        options.progress = [&](std::int64_t done, std::int64_t total) {
            EXPECT_GT(done, last);
            EXPECT_LE(done, total);
            last = done;
        };
        const FolderFiles files = folder_files_like(kTiny / family, options.dtype);
        write_hugging_face_model(out, *model, files, options);
        EXPECT_TRUE(fs::exists(out / "model.safetensors.index.json"));
        expect_same_weights(*model, *open_model(out), 0, family);
        expect_refused([&] { write_hugging_face_model(out, *model, files, options); },
                       "is not empty", family);
    }
}

TEST(HuggingFaceFolder, IsMadeOfAGgufModelWithItsTokenizer) {
    const TempFolder folder;
    for (const std::string family :
         {"llama", "llama_tied", "qwen2", "qwen3", "gemma", "granite", "gpt2", "phi3",
          "phi3_longrope", "mixtral", "olmo2", "starcoder2"}) {
        const auto model = open_model(kTiny / family);
        const fs::path file = folder.path() / (family + ".gguf"), out = folder.path() / family;
        GgufHeader metadata = gguf_metadata_of(model->config());
        metadata.text("tokenizer.ggml.model", "gpt2");
        metadata.text("tokenizer.ggml.pre", "smollm");
        metadata.texts("tokenizer.ggml.tokens",
                       std::vector<std::string>{"<s>", "a", "b", "\xC4\xA0", "ab",
                                                "\xC4\xA0"
                                                "ab"});
        metadata.i32s("tokenizer.ggml.token_type", std::vector<std::int32_t>{3, 1, 1, 1, 1, 1});
        metadata.texts("tokenizer.ggml.merges", std::vector<std::string>{"a b", "\xC4\xA0 ab"});
        metadata.u32("tokenizer.ggml.bos_token_id", 0);
        metadata.boolean("tokenizer.ggml.add_bos_token", true);
        metadata.text("tokenizer.chat_template", "{{ bos_token }}");
        write_gguf_model(file, *model, metadata, as(DType::kF32));
        const ModelSource source = open_model_source(file);
        if (family == "llama_tied") {  // GGUF has divisors of its own for Llama 3's positions
            expect_refused([&] { folder_files_of_gguf(source, DType::kF32); }, "rotary positions",
                           family);
            continue;
        }
        write_hugging_face_model(out, *source.weights, folder_files_of_gguf(source, DType::kF32),
                                 as(DType::kF32));
        const ModelSource made = open_model_source(out);
        expect_same_weights(*source.weights, *made.weights, 0, family);
        EXPECT_EQ(made.chat_templates.at("default"), "{{ bos_token }}");
        const Tokenizer before = Tokenizer::from_gguf(*source.gguf_tokenizer),
                        after = Tokenizer::from_json_text(made.tokenizer_json->text, "made");
        for (const char* text : {"ab ab<s>", "  b a", ""}) {
            EXPECT_EQ(after.encode(text, true), before.encode(text, true)) << text;
            EXPECT_EQ(after.encode(text, false), before.encode(text, false)) << text;
        }
        EXPECT_EQ(after.encode(" ab", true), (std::vector<std::int32_t>{0, 5}));
    }
}

/// SentencePiece's pieces by merges, as tokenizer.json has them, and by scores, as GGUF has them.
TEST(Tokenizers, ConvertedSentencePieceGoesToGguf) {
    std::string vocabulary = R"("<unk>":0,"<s>":1)";
    for (int byte = 0; byte < 256; ++byte)
        vocabulary += fmt::format(R"(,"<0x{:02X}>":{})", byte, byte + 2);
    int id = 258;
    for (const char* piece : {"\\u2581", "l", "o", "r", "or", "lo", "lor", "\\u2581lo"})
        vocabulary += fmt::format(R"(,"{}":{})", piece, id++);
    const std::string json = R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},)"
                             R"({"id":1,"content":"<s>","special":true}],)"
                             R"("normalizer":{"type":"Sequence","normalizers":[)"
                             R"({"type":"Prepend","prepend":"\u2581"},)"
                             R"({"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]},)"
                             R"("model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,)"
                             R"("byte_fallback":true,"vocab":{)" +
                             vocabulary +
                             R"(},"merges":[["o","r"],["l","o"],["l","or"],["lo","r"],)"
                             R"(["\u2581","lo"]]}})";
    const GgufTokenizerData data = gguf_tokenizer_of(json, "made", 267);
    EXPECT_EQ(data.model, "llama");
    EXPECT_EQ(data.tokens.at(266), "[PAD266]");
    const std::map<std::size_t, int> types = {{0, 2}, {1, 3}, {2, 6}, {257, 6}, {265, 1}, {266, 5}};
    for (const auto& [token, type] : types) EXPECT_EQ(data.token_types.at(token), type) << token;
    EXPECT_EQ(data.scores.at(262), 0.0f);
    EXPECT_EQ(data.scores.at(264), -2.0f);
    EXPECT_EQ(data.unk, 0);
    EXPECT_EQ(data.add_space_prefix, true);
    const Tokenizer before = Tokenizer::from_json_text(json, "made"),
                    after = Tokenizer::from_gguf(data);
    for (const char* text : {"lo lor", "a llo<s>ro", "rolor", ""})
        EXPECT_EQ(after.encode(text, false), before.encode(text, false)) << text;

    ModelConfig config;
    config.eos_ids = {4, 5, 6};
    GgufTokenizerData ends = data;
    ends.bos = 1;
    ends.eos = 5;
    GgufHeader header;
    add_gguf_tokenizer(header, ends, config, {{"default", "D"}, {"tool-use", "U"}});
    const GgufFile file{testing::memory_file(header.bytes())};
    EXPECT_EQ(*file.text("tokenizer.chat_template"), "D");
    EXPECT_EQ(*file.text("tokenizer.chat_template.tool_use"), "U");
    EXPECT_EQ(*file.texts("tokenizer.chat_templates"), (std::vector<std::string>{"tool_use"}));
    EXPECT_EQ(file.integer("tokenizer.ggml.bos_token_id"), 1);
    EXPECT_EQ(file.integer("tokenizer.ggml.eos_token_id"), 5);
    EXPECT_EQ(file.integer("tokenizer.ggml.eot_token_id"), 4);
    EXPECT_EQ(file.integer("tokenizer.ggml.eom_token_id"), 6);
    EXPECT_EQ(file.numbers("tokenizer.ggml.scores")->size(), 267u);
    EXPECT_EQ(file.boolean("tokenizer.ggml.add_space_prefix"), true);
    EXPECT_FALSE(gguf_tokenizer(file)->specials_strip_right);
    header.text("general.architecture", "phi3");
    const GgufFile phi3{testing::memory_file(header.bytes())};
    EXPECT_TRUE(gguf_tokenizer(phi3)->specials_strip_right);
}

/// With the quickstart's model: its tokenizer through tokenizer.json and back.
TEST(Tokenizers, SmolLm2GoesToJsonAndBack) {
    const char* path = std::getenv("QSHARD_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "QSHARD_TEST_MODEL is not set";
    const ModelSource source = open_model_source(path);
    const FolderFiles files = folder_files_of_gguf(source, DType::kBF16);
    const GgufTokenizerData& before = *source.gguf_tokenizer;
    const GgufTokenizerData after = gguf_tokenizer_of(files.others.at("tokenizer.json"), "made",
                                                      source.weights->config().vocabulary);
    EXPECT_EQ(after.pre, "smollm");
    EXPECT_EQ(after.tokens, before.tokens);
    EXPECT_EQ(after.token_types, before.token_types);
    EXPECT_EQ(after.merges, before.merges);
}

TEST(GgufAdapter, PermutesQAndKAndFoldsTheScale) {
    const TempFolder folder;
    const auto model = open_model(kTiny / "llama");
    const ModelConfig& config = model->config();
    const Adapted adapted = adapter_for(config, {"q_proj", "down_proj"}, true);
    const fs::path path = folder.path() / "adapter.gguf";
    write_gguf_adapter(path, config, adapted.layout, adapted.values);
    const GgufFile file{InputFile(path)};
    EXPECT_EQ(*file.text("general.type"), "adapter");
    EXPECT_EQ(*file.text("adapter.type"), "lora");
    EXPECT_EQ(*file.text("general.architecture"), "llama");
    EXPECT_EQ(file.number("adapter.lora.alpha"), 8.0);
    EXPECT_EQ(file.tensors().size(), 4u * static_cast<std::size_t>(config.layers));
    for (const AdapterTarget& target : adapted.layout.targets) {
        const bool q = target.role == Role::kQ;
        const std::string name =
            fmt::format("blk.{}.{}.weight", target.layer, q ? "attn_q" : "ffn_down");
        const GgufTensor &a = *file.find(name + ".lora_a"), &b = *file.find(name + ".lora_b");
        EXPECT_EQ(a.extents, (std::vector<std::int64_t>{target.in, 4}));
        EXPECT_EQ(b.extents, (std::vector<std::int64_t>{4, target.out}));
        std::vector<float> x(static_cast<std::size_t>(a.count())),
            y(static_cast<std::size_t>(b.count()));
        file.read(a, 0, x.data(), a.bytes);
        file.read(b, 0, y.data(), b.bytes);
        EXPECT_EQ(std::memcmp(x.data(), adapted.values.data() + target.a, a.bytes), 0);
        const std::int64_t half = config.head_width / 2;
        for (std::int64_t head = 0; head < target.out / config.head_width; ++head) {
            for (std::int64_t j = 0; j < 2; ++j) {
                for (std::int64_t i = 0; i < half; ++i) {
                    const std::int64_t ours = head * config.head_width + j * half + i;
                    const std::int64_t theirs = q ? head * config.head_width + 2 * i + j : ours;
                    // llama.cpp multiplies by alpha / r = 2; rsLoRA's scale is 8 / sqrt(4) = 4.
                    ASSERT_EQ(y[static_cast<std::size_t>(4 * theirs)],
                              2.0f * adapted.values[static_cast<std::size_t>(target.b + 4 * ours)]);
                }
            }
        }
    }
}

TEST(GgufAdapter, HasNoPlaceForMagnitudesAndWholeWeights) {
    const TempFolder folder;
    const auto model = open_model(kTiny / "llama");
    const Adapted adapted = adapter_for(model->config(), {"q_proj"}, false, true);
    const fs::path path = folder.path() / "adapter.gguf";
    expect_refused(
        [&] { write_gguf_adapter(path, model->config(), adapted.layout, adapted.values); }, "DoRA",
        "dora");
    EXPECT_FALSE(fs::exists(path));
    Adapted whole = adapter_for(model->config(), {"q_proj"});
    whole.layout.options.modules_to_save = {"lm_head"};
    whole.layout = make_adapter_layout(model->config(), whole.layout.options);
    expect_refused([&] { write_gguf_adapter(path, model->config(), whole.layout, whole.values); },
                   "lm_head.weight, a weight of the base", "whole");
    EXPECT_FALSE(fs::exists(path));
}

/// llama.cpp multiplies the rows that go to expert e by slice e of A, then of B.
TEST(GgufAdapter, HasAPairForEachExpertsGateUpAndDown) {
    const TempFolder folder;
    const auto model = open_model(kTiny / "mixtral");
    const ModelConfig& config = model->config();
    const Adapted adapted = adapter_for(config, {"all-linear"});
    const fs::path path = folder.path() / "adapter.gguf";
    write_gguf_adapter(path, config, adapted.layout, adapted.values);
    const GgufFile file{InputFile(path)};
    const auto tensor = [&](const std::string& name, std::vector<std::int64_t> extents) {
        const GgufTensor& found = *file.find(name);
        EXPECT_EQ(found.extents, extents) << name;
        std::vector<float> values(static_cast<std::size_t>(found.count()));
        file.read(found, 0, values.data(), found.bytes);
        return values;
    };
    struct Part {
        const char* name;
        Role role;
        std::int64_t first, rows, r, experts;
    };
    const std::int64_t f = config.expert_width, c = config.width, e = config.experts;
    for (const Part& part : {Part{"ffn_gate_exps", Role::kExpertGateUp, 0, f, 8, e},
                             Part{"ffn_up_exps", Role::kExpertGateUp, f, f, 8, e},
                             Part{"ffn_down_exps", Role::kExpertDown, 0, c, 4, e},
                             Part{"ffn_gate_inp", Role::kRouter, 0, e, 4, 1}}) {
        const AdapterTarget& target = *adapted.layout.find(1, part.role);
        const std::string name = fmt::format("blk.1.{}.weight", part.name);
        std::vector<std::int64_t> shape_a = {target.in, part.r}, shape_b = {part.r, part.rows};
        if (part.experts > 1) {
            shape_a.push_back(e);
            shape_b.push_back(e);
        }
        const std::vector<float> a = tensor(name + ".lora_a", shape_a),
                                 b = tensor(name + ".lora_b", shape_b);
        EXPECT_TRUE(std::equal(a.begin(), a.end(), adapted.values.begin() + target.a)) << name;
        // Gate and up have twice r and twice alpha: llama.cpp multiplies by 8 / 8, we by 16 / 8.
        const float factor = part.r == 8 ? 2.0f : 1.0f;
        std::size_t at = 0;
        for (std::int64_t expert = 0; expert < part.experts; ++expert) {
            const std::int64_t from = target.b_of_row(expert * target.out + part.first);
            for (std::int64_t i = 0; i < part.rows * part.r; ++i, ++at) {
                ASSERT_EQ(b[at], factor * adapted.values[static_cast<std::size_t>(from + i)])
                    << name << " expert " << expert;
            }
        }
    }
    // Of two layers: q, k, v, o, gate, up, down and router, a pair each.
    EXPECT_EQ(file.tensors().size(), 2u * 8u * 2u);
}

TEST(MergedWeights, RowsOfDoraHaveTheLengthsOfTheirMagnitudes) {
    const auto model = open_model(kTiny / "llama");
    const Adapted lora = adapter_for(model->config(), {"v_proj"});
    Adapted dora = adapter_for(model->config(), {"v_proj"}, false, true);
    for (std::size_t t = 0; t < dora.layout.targets.size(); ++t) {  // the same A and B
        const AdapterTarget &from = lora.layout.targets[t], &to = dora.layout.targets[t];
        std::copy_n(lora.values.begin() + from.a, (from.in + from.out) * from.r,
                    dora.values.begin() + to.a);
    }
    const MergedWeights sums(*model, lora.layout, lora.values, DType::kBF16);
    const MergedWeights merged(*model, dora.layout, dora.values, DType::kBF16);
    for (const PlacedWeight& placed : all_weights(model->config())) {
        const WeightSpec& weight = placed.weight;
        std::vector<float> want = values_of(sums, weight);
        if (weight.role == Role::kV) {
            const AdapterTarget& t = *dora.layout.find(placed.layer, Role::kV);
            for (std::int64_t row = 0; row < weight.rows; ++row) {
                const auto line =
                    std::span(want).subspan(static_cast<std::size_t>(row * weight.cols),
                                            static_cast<std::size_t>(weight.cols));
                double squares = 0;
                for (const float value : line) squares += std::pow(double{value}, 2);
                const double length = dora.values[static_cast<std::size_t>(t.magnitude + row)];
                for (float& value : line)
                    value = static_cast<float>(double{value} * length / std::sqrt(squares));
            }
        }
        const std::vector<float> whole = values_of(merged, weight);
        std::vector<float> parts(whole.size());
        const std::size_t cut = parts.size() / 3;  // inside a row
        merged.read(weight, 0, std::span(parts).first(cut));
        merged.read(weight, static_cast<std::int64_t>(cut), std::span(parts).subspan(cut));
        EXPECT_EQ(parts, whole) << weight.name;
        for (std::size_t i = 0; i < want.size(); ++i)
            ASSERT_NEAR(whole[i], want[i], 1e-6) << weight.name << " " << i;
    }
}

TEST(MergedWeights, AddTheScaledProductToTheRoundedBase) {
    const auto model = open_model(kTiny / "llama");
    const Adapted adapted = adapter_for(model->config(), {"v_proj"});
    const MergedWeights merged(*model, adapted.layout, adapted.values, DType::kBF16);
    for (const PlacedWeight& placed : all_weights(model->config())) {
        const WeightSpec& weight = placed.weight;
        const std::vector<float> before = values_of(*model, weight);
        std::vector<float> after(before.size());
        const std::size_t cut = before.size() / 3;  // inside a row
        merged.read(weight, 0, std::span(after).first(cut));
        merged.read(weight, static_cast<std::int64_t>(cut), std::span(after).subspan(cut));
        for (std::size_t i = 0; i < before.size(); ++i) {
            double want = to_float(to_bf16(before[i]));
            if (weight.role == Role::kV) {
                const AdapterTarget& t = *adapted.layout.find(placed.layer, Role::kV);
                const auto row = static_cast<std::int64_t>(i) / weight.cols,
                           column = static_cast<std::int64_t>(i) % weight.cols;
                for (std::int64_t k = 0; k < 4; ++k) {
                    want += 2.0 *
                            static_cast<double>(
                                adapted.values[static_cast<std::size_t>(t.b + row * 4 + k)]) *
                            static_cast<double>(
                                adapted.values[static_cast<std::size_t>(t.a + k * t.in + column)]);
                }
            }
            ASSERT_NEAR(after[i], want, 1e-6) << weight.name << " " << i;
        }
    }
}

TEST(QuantizedWeights, AreRowsOfInt8WhereTrainingHadThem) {
    const auto model = open_model(kTiny / "llama");
    LayoutOptions options;
    options.quantization = Quantization::kInt8;
    const QuantizedWeights quantized(*model, options, 2);
    for (const PlacedWeight& placed : all_weights(model->config())) {
        const WeightSpec& weight = placed.weight;
        std::vector<float> want = values_of(*model, weight);
        if (weight.linear) {
            std::vector<std::int8_t> codes(want.size());
            std::vector<float> absmax(static_cast<std::size_t>(weight.rows));
            const auto cols = static_cast<std::size_t>(weight.cols);
            for (std::size_t row = 0; row < absmax.size(); ++row) {
                quantize_int8_row(std::span(want).subspan(row * cols, cols),
                                  codes.data() + row * cols, &absmax[row]);
            }
            dequantize_int8(codes.data(), absmax.data(), weight.cols, 0, want);
        }
        EXPECT_EQ(values_of(quantized, weight), want) << weight.name;
    }
}

TEST(QuantizedWeights, AreTheValuesThatTrainingSaw) {
    const auto model = open_model(kTiny / "llama");
    LayoutOptions options;
    const QuantizedWeights quantized(*model, options, 2);
    for (const PlacedWeight& placed : all_weights(model->config())) {
        const WeightSpec& weight = placed.weight;
        std::vector<float> want = values_of(*model, weight);
        if (weight.linear) {
            round_to_bf16(want);
            std::vector<std::uint8_t> codes(want.size() / 2);
            std::vector<float> absmax(want.size() / 64);
            quantize_four_bit(kNf4Code, want, codes.data(), absmax.data());
            std::vector<std::uint8_t> nested(absmax.size());
            std::vector<float> absmax2((absmax.size() + 255) / 256);
            const float offset = mean_absmax(absmax);
            double_quantize(absmax, offset, nested.data(), absmax2.data());
            reconstruct_absmax(nested, absmax2.data(), offset, absmax.data());
            dequantize_four_bit(kNf4Code, codes.data(), absmax.data(), 0, want);
        }
        EXPECT_EQ(values_of(quantized, weight), want) << weight.name;
    }
}

}  // namespace
}  // namespace qshard
