#include <gtest/gtest.h>

#include "hf_folder.h"
#include "io/formats/model_reader.h"

using namespace qshard;
using namespace qshard::testing;
namespace fs = std::filesystem;

TEST(Links, ThoseOfTheHubCacheAreFollowed) {
    const TempFolder cache;
    const fs::path repository = cache.path() / "models--owner--tiny";
    const fs::path snapshot = repository / "snapshots/0123";
    fs::create_directories(snapshot);
    fs::create_directories(repository / "blobs");
    std::ofstream(repository / "blobs/aa") << kConfig;
    std::ofstream(repository / "blobs/bb") << safetensors_of(llama_shapes());
    fs::create_symlink("../../blobs/aa", snapshot / "config.json");
    fs::create_symlink("../../blobs/bb", snapshot / "model.safetensors");
    EXPECT_EQ(open_model(snapshot)->config().width, 8);
    const TempFolder elsewhere;
    fs::create_directory_symlink(snapshot, elsewhere.path() / "mine");
    EXPECT_EQ(open_model(elsewhere.path() / "mine")->config().width, 8)
        << "a folder may be a link itself";

    // The blobs of another model are not this one's.
    const fs::path other = cache.path() / "models--owner--other/blobs";
    fs::create_directories(other);
    std::ofstream(other / "cc") << "{{ bos_token }}";
    fs::create_symlink("../../../models--owner--other/blobs/cc", snapshot / "chat_template.jinja");
    expect_refused([&] { open_model(snapshot); }, "chat_template.jinja is a link that leads out",
                   "a link into another model");
}

TEST(Links, OthersAreFollowedInsideTheFolderOnly) {
    const TempFolder folder, elsewhere;
    folder.write("config.json", kConfig);
    folder.write("weights-0.safetensors", safetensors_of(llama_shapes()));
    const fs::path link = folder.path() / "model.safetensors";
    fs::create_symlink("weights-0.safetensors", link);
    EXPECT_EQ(open_model(folder.path())->config().width, 8);
    fs::remove(link);
    const fs::path target = elsewhere.write("x", safetensors_of(llama_shapes()));
    fs::create_symlink(target, link);
    expect_refused([&] { open_model(folder.path()); },
                   "leads out of its folder, to " + target.string(), "weights in another folder");
    expect_refused([&] { open_model(folder.path()); }, "cp --remove-destination", "the way out");
    fs::remove(link);
    fs::create_symlink(folder.path() / "gone", link);
    expect_refused([&] { open_model(folder.path()); }, "model.safetensors", "a dangling link");
}
