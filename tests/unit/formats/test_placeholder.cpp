#include <gtest/gtest.h>

#include "gguf_builder.h"
#include "hf_folder.h"
#include "io/formats/model_reader.h"
#include "io/formats/placeholder.h"
#include "io/formats/safetensors.h"

using namespace qshard;
using namespace qshard::testing;

namespace {

constexpr const char* kPointer =
    "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 4096\n";

}  // namespace

TEST(Placeholder, PointersAndWebPagesAreToldByTheirBegin) {
    const std::pair<const char*, const char*> cases[] = {
        {kPointer, "git lfs pull"},
        {"# xet version 0\nfilesize = 1\n", "Xet"},
        {"/annex/objects/SHA256E-s1--aa\n", "git annex get"},
        {"\n<!DOCTYPE HTML><title>Sign in</title>", "web page"},
        {"<html><body>404", "web page"},
        {"Entry not found", "Hub"}};
    for (const auto& [text, part] : cases)
        expect_refused([&] { refuse_placeholder(text, "f"); }, part, text);
    for (const char* text : {"", "{}", "version 3", "<s>", "GGUF", "model.safetensors"})
        refuse_placeholder(text, "f");
}

TEST(Placeholder, AnyFileOfAModelMayBeOne) {
    const TempFolder folder;
    folder.write("config.json", kConfig);
    folder.write("tokenizer.json", "{}");
    folder.write("tokenizer_config.json", "{}");
    folder.write("model.safetensors", safetensors_of(llama_shapes()));
    EXPECT_EQ(open_model_source(folder.path()).kind, "safetensors");
    for (const char* name : {"tokenizer_config.json", "tokenizer.json", "model.safetensors",
                             "config.json", "model.gguf"}) {
        const auto file = folder.write(name, kPointer);
        const bool gguf = file.extension() == ".gguf";
        expect_refused([&] { open_model_source(gguf ? file : folder.path()); },
                       file.string() + " is a Git LFS pointer", name);
    }
}

TEST(Placeholder, HalfADownloadIsNamedAsOne) {
    const std::string whole = safetensors_of(llama_shapes());
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{100}, whole.size() - 10}) {
        expect_refused([&] { SafetensorsFile(memory_file(whole.substr(0, bytes))); },
                       "download finished", fmt::format("{} bytes", bytes));
    }
    const TempFolder folder;
    folder.write("config.json", kConfig);
    std::filesystem::create_directories(folder.path() / ".cache/huggingface/download");
    folder.write(".cache/huggingface/download/model.safetensors.aa.incomplete", "x");
    expect_refused([&] { open_model(folder.path()); }, "hf download", "a stopped hf download");
}
