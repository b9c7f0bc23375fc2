#include <gtest/gtest.h>

#include <cstdlib>

#include "gguf_builder.h"
#include "io/formats/hub_cache.h"
#include "io/formats/model_reader.h"

using namespace qshard;
using namespace qshard::testing;
namespace fs = std::filesystem;

namespace {

/// Sets a variable of the environment, or unsets it, until the end of the scope.
class Variable {
  public:
    Variable(const char* name, const char* value) : name_(name) {
        if (const char* before = std::getenv(name)) before_ = before;
        set(value);
    }
    ~Variable() { set(before_ ? before_->c_str() : nullptr); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

  private:
    void set(const char* value) {
        value != nullptr ? ::setenv(name_, value, 1) : ::unsetenv(name_);
    }
    const char* name_;
    std::optional<std::string> before_;
};

}  // namespace

TEST(ModelSource, AGgufFileIsKnownByItsContent) {
    const TempFolder folder;
    const std::string bytes = tiny_llama().bytes();
    for (const char* name : {"model.gguf", "sha256-0a1b", "model.bin"})
        EXPECT_EQ(open_model_source(folder.write(name, bytes)).kind, "gguf") << name;
    expect_refused([&] { open_model(folder.write("pickled.bin", "PK\3\4")); },
                   "Pickled files (.bin, .pt) are never read", "another file");
    expect_refused([&] { open_model(folder.write("x.gguf", std::string(64, 'x'))); },
                   "x.gguf: not a GGUF file", "another file with the name of one");
}

TEST(ModelSource, WhatTheHubCacheHasIsNamed) {
    const TempFolder folder;
    const Variable hub("HF_HUB_CACHE", nullptr), xdg("XDG_CACHE_HOME", nullptr);
    const Variable home("HF_HOME", folder.path().c_str());
    const fs::path repository = folder.path() / "hub/models--owner--tiny";
    const fs::path model = "/nonexistent/runs/owner/tiny";
    EXPECT_EQ(find_in_hub_cache(model), std::nullopt);
    fs::create_directories(repository / "snapshots/111");
    EXPECT_EQ(find_in_hub_cache(model), repository / "snapshots/111");
    fs::create_directories(repository / "snapshots/222");
    EXPECT_EQ(find_in_hub_cache(model), std::nullopt) << "two, and none is \"main\"";
    fs::create_directories(repository / "refs");
    folder.write("hub/models--owner--tiny/refs/main", "222");
    EXPECT_EQ(find_in_hub_cache(model), repository / "snapshots/222");
    expect_refused([&] { open_model(model); }, (repository / "snapshots/222").string(),
                   "a name of the hub");
    expect_refused([&] { open_model("/nonexistent/tiny"); }, "there is no model at", "no such");
    expect_refused([&] { open_model("/nonexistent/runs/owner/another"); },
                   "hf download owner/another --local-dir another", "an id of the hub");
    expect_refused([&] { open_model("someone/another"); }, "hf download someone/another",
                   "an id as --model has it");
    EXPECT_EQ(advice_on_missing("/nonexistent/models/llama.gguf"), "") << "a file, no id";
    EXPECT_EQ(advice_on_missing("a/deeper/path/x"), "");
    EXPECT_EQ(name_of_folder(repository / "snapshots/222"), "tiny");
    EXPECT_EQ(name_of_folder(folder.path() / "hub/"), "hub");
    {
        const Variable other("HF_HUB_CACHE", (folder.path() / "other").c_str());
        EXPECT_EQ(find_in_hub_cache(model), std::nullopt);
    }
    const Variable none("HF_HOME", nullptr), user("HOME", folder.path().c_str());
    fs::create_directories(folder.path() / ".cache/huggingface");
    fs::rename(folder.path() / "hub", folder.path() / ".cache/huggingface/hub");
    EXPECT_EQ(find_in_hub_cache(model),
              folder.path() / ".cache/huggingface/hub/models--owner--tiny/snapshots/222");
}
