#include <gtest/gtest.h>
#include <hdf5.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <thread>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/foreign.h"
#include "io/checkpoint/image.h"
#include "io/checkpoint/json_text.h"
#include "io/checkpoint/manifest.h"
#include "io/checkpoint/store.h"
#include "sample_state.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::sample_state;
using test::TempFolder;

std::string message_of(const std::function<void()>& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

const CheckpointStore::OnRejected kNoneRejected = [](const fs::path& file, const std::string& why) {
    ADD_FAILURE() << file << ": " << why;
};

TEST(Image, RoundTripKeepsEveryBit) {
    CheckpointState state = sample_state(12);
    state.adapter[0] = -0.0f;
    state.adapter[1] = std::numeric_limits<float>::denorm_min();
    state.adapter[2] = std::numeric_limits<float>::infinity();
    EXPECT_EQ(decode_checkpoint(encode_checkpoint(state)), state);
}

TEST(Image, EqualStatesGiveEqualBytes) {
    EXPECT_EQ(encode_checkpoint(sample_state(3)), encode_checkpoint(sample_state(3)));
    EXPECT_NE(encode_checkpoint(sample_state(3)), encode_checkpoint(sample_state(4)));
}

TEST(Image, FactsAndDigestsAreThoseOfTheState) {
    const CheckpointState state = sample_state(3);
    VectorDigests digests;
    const CheckpointFacts facts = decode_facts(encode_checkpoint(state), digests);
    EXPECT_EQ(facts, state);
    EXPECT_EQ(digests, digests_of(state));
    CheckpointState other = state;
    other.optimizer.at("exp_avg")[1] += 1;
    EXPECT_NE(digests, digests_of(other));
}

TEST(Image, PlainSgdHasNoMomentsAndLongTextsFit) {
    CheckpointState state = sample_state(1);
    state.optimizer.clear();
    state.counters.clear();
    state.run_yaml = std::string(300000, 'y');
    state.adapter_config_json = std::string(100000, 'j');
    EXPECT_EQ(decode_checkpoint(encode_checkpoint(state)), state);
}

TEST(Image, InconsistentStateIsABug) {
    CheckpointState gap = sample_state(1);
    gap.tensors[1].offset += 1;
    EXPECT_THROW(encode_checkpoint(gap), BugError);
    CheckpointState shorter = sample_state(1);
    shorter.optimizer["exp_avg"].pop_back();
    EXPECT_THROW(encode_checkpoint(shorter), BugError);
}

TEST(State, UpdateNorms) {
    CheckpointState state = sample_state(1);
    std::vector<float> initial = state.adapter;
    initial[0] += 3;
    initial[1] -= 4;
    fill_update_norms(state, initial);
    EXPECT_NEAR(state.tensors[0].update_norm, 5, 1e-6);
    EXPECT_EQ(state.tensors[1].update_norm, 0);
}

TEST(State, AdapterDigestIsThatOfItsBytes) {
    // python3 -c "import hashlib,struct;
    // print(hashlib.sha256(struct.pack('<2f',1,-2)).hexdigest())"
    EXPECT_EQ(adapter_sha256(std::vector<float>{1.0f, -2.0f}),
              "ee4ac73c2bd27756ab82780f27c73a7bc4d3f0bb6acb37e008bc27eccd7e588b");
}

TEST(JsonText, IsPythons) {
    const auto value = parse_strict_json(
        R"({"b": [1, 2.0, 1e-05, 0.05, null, true], "a": {"é": "\"\n😀"}, "e": [], "o": {}})",
        "test");
    EXPECT_EQ(python_json(value),
              "{\n  \"a\": {\n    \"\\u00e9\": \"\\\"\\n\\ud83d\\ude00\"\n  },\n  \"b\": [\n    "
              "1,\n    2.0,\n"
              "    1e-05,\n    0.05,\n    null,\n    true\n  ],\n  \"e\": [],\n  \"o\": {}\n}");
}

TEST(AtomicFile, ReplacesAndRefusesLinks) {
    const TempFolder folder;
    const fs::path file = folder.path() / "x";
    write_file_atomic(file, "one");
    write_file_atomic(file, "two");
    EXPECT_EQ(read_file(file, 3).size(), 3u);
    EXPECT_THROW(read_file(file, 2), UserError);
    fs::create_symlink(file, folder.path() / "link");
    EXPECT_THROW(read_file(folder.path() / "link", 10), UserError);
    EXPECT_THROW(read_file(folder.path(), 10), UserError);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 2);
    try {
        write_file_atomic(folder.path() / "absent" / "x", "one");
        ADD_FAILURE() << "wrote into a missing folder";
    } catch (const SystemError& error) {
        EXPECT_EQ(error.code(), ExitCode::kCannotCreate);
    }
}

TEST(Store, SavesLoadsAndPrunes) {
    const TempFolder folder;
    CheckpointStore store(folder.path() / "checkpoints");
    EXPECT_FALSE(store.load_newest(kNoneRejected).has_value());
    for (int step = 1; step <= 6; ++step) {
        store.save(sample_state(step), 1);
        const auto loaded = store.load_newest(kNoneRejected);
        ASSERT_TRUE(loaded.has_value());
        EXPECT_EQ(loaded->state, sample_state(step));
        EXPECT_EQ(store.list().size(), static_cast<std::size_t>(std::min(step, 3)));
    }
    EXPECT_EQ(store.list().front().file.filename(), "step-00000006.h5");
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path() / "checkpoints"), {}), 6);
}

TEST(Image, TheSameStateIsTheSameBytesAtAnyTime) {
    const FileImage first = encode_checkpoint(sample_state(5));
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 counts seconds
    EXPECT_EQ(encode_checkpoint(sample_state(5)), first);
}

TEST(Store, TheSameStepAgain) {
    const TempFolder folder;
    CheckpointStore store(folder.path());
    const fs::path first = store.save(sample_state(5));
    CheckpointState later = sample_state(5);
    later.created = "2026-01-01T00:00:00Z";
    EXPECT_EQ(store.save(later), first) << "an identical save is left as it is";
    CheckpointState other = sample_state(5);
    other.loss = 9;
    EXPECT_EQ(store.save(other).filename(), "step-00000005.1.h5");
    EXPECT_EQ(store.load_newest(kNoneRejected)->state, other);
    EXPECT_EQ(CheckpointStore::load(first), sample_state(5));
}

TEST(Store, DamagedOnesAreNamedAndNotCountedAsKept) {
    const TempFolder folder;
    CheckpointStore store(folder.path());
    for (int step = 1; step <= 3; ++step) store.save(sample_state(step));
    for (const char* name : {"step-00000002.h5", "step-00000003.h5"}) {
        fs::resize_file(folder.path() / name, 100);
    }
    std::vector<std::string> rejected;
    const auto loaded = store.load_newest(
        [&](const fs::path& file, const std::string&) { rejected.push_back(file.filename()); });
    EXPECT_EQ(loaded->state, sample_state(1));
    EXPECT_EQ(rejected, (std::vector<std::string>{"step-00000003.h5", "step-00000002.h5"}));

    CheckpointStore resumed(folder.path());
    resumed.save(sample_state(2));
    EXPECT_EQ(resumed.load_newest([](auto&&...) {})->state, sample_state(2));
    EXPECT_EQ(CheckpointStore::load(folder.path() / "step-00000001.h5"), sample_state(1))
        << "with two damaged ones among four files, the good one stays";
}

TEST(Store, NeverStartsSilentlyOverUnusableCheckpoints) {
    const TempFolder folder;
    CheckpointStore store(folder.path());
    store.save(sample_state(1));
    fs::resize_file(folder.path() / "step-00000001.h5", 50);
    EXPECT_THROW(store.load_newest([](auto&&...) {}), UserError);
    fs::remove(folder.path() / "step-00000001.h5.json");
    EXPECT_FALSE(store.load_newest([](auto&&...) {}).has_value()) << "a killed first save";
}

TEST(Store, LinksRenamedFilesAndWrongManifestsAreRefused) {
    const TempFolder folder;
    CheckpointStore store(folder.path());
    const fs::path file = store.save(sample_state(1));
    const fs::path elsewhere = folder.path() / "elsewhere";
    fs::rename(file, elsewhere);
    fs::create_symlink(elsewhere, file);
    EXPECT_NE(message_of([&] { CheckpointStore::load(file); }).find("symbolic link"),
              std::string::npos);
    fs::remove(file);
    fs::rename(elsewhere, folder.path() / "step-00000007.h5");
    fs::rename(file.string() + ".json", folder.path() / "step-00000007.h5.json");
    EXPECT_NE(message_of([&] {
                  CheckpointStore::load(folder.path() / "step-00000007.h5");
              }).find("holds step 1"),
              std::string::npos);
    EXPECT_NE(
        message_of([&] { CheckpointStore::load(folder.path() / "none.h5"); }).find("no manifest"),
        std::string::npos);
}

TEST(Store, SixtyMebibytesTakeWellUnderASecond) {
    const TempFolder folder;
    CheckpointState state = sample_state(1, 30, 20352);  // 4.9 million adapter values
    EXPECT_GT(state.adapter.size(), 4'800'000u);
    CheckpointStore store(folder.path());
    const auto start = std::chrono::steady_clock::now();
    const fs::path file = store.save(state);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    RecordProperty("save_seconds", std::to_string(seconds));
    std::printf("saved %.1f MiB in %.3f s\n", static_cast<double>(fs::file_size(file)) / 1048576.0,
                seconds);
    EXPECT_LT(seconds, 10.0) << "generous: this machine may be busy";
    EXPECT_EQ(CheckpointStore::load(file), state);
}

TEST(Manifest, RoundTripAndDamage) {
    const Manifest manifest{
        "step-00000001.h5", 77, std::string(64, 'a'), 1, std::string(64, 'c'), "now", "1"};
    const std::string text = manifest_text(manifest);
    EXPECT_EQ(parse_manifest(text).bytes, 77u);
    for (std::size_t i = 0; i < text.size() * 8; ++i) {
        std::string damaged = text;
        damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << (i % 8)));
        EXPECT_THROW(parse_manifest(damaged), UserError) << "bit " << i;
    }
    for (std::size_t bytes = 0; bytes < text.size(); ++bytes) {
        EXPECT_THROW(parse_manifest(text.substr(0, bytes)), UserError) << bytes;
    }
}

TEST(Foreign, ReadsACheckpointWithoutManifest) {
    const TempFolder folder;
    CheckpointStore store(folder.path());
    const fs::path file = store.save(sample_state(4));
    fs::remove(file.string() + ".json");
    EXPECT_EQ(load_foreign_checkpoint(file), sample_state(4));
    fs::resize_file(file, fs::file_size(file) / 2);
    EXPECT_THROW(load_foreign_checkpoint(file), UserError);
    std::ofstream(file) << "no hdf5";
    EXPECT_THROW(load_foreign_checkpoint(file), UserError);
}

/// Replaces the member `name` of a valid file by something hostile and expects a refusal that says
/// why.
void expect_refused(const std::function<void(hid_t)>& spoil, const std::string& reason) {
    const TempFolder folder;
    const fs::path file = folder.path() / "hostile.h5";
    write_file_atomic(file, encode_checkpoint(sample_state(1)));
    const hid_t id = H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(id, 0);
    spoil(id);
    ASSERT_GE(H5Fclose(id), 0);
    const std::string message = message_of([&] { load_foreign_checkpoint(file); });
    EXPECT_NE(message.find(reason), std::string::npos) << message;
}

TEST(Foreign, RefusesExternalFilesLinksAndUnbackedSizes) {
    const auto replace_values = [](hid_t file, hid_t list, hsize_t count) {
        H5Ldelete(file, "adapter/values", H5P_DEFAULT);
        const hid_t space = H5Screate_simple(1, &count, nullptr);
        H5Dclose(H5Dcreate2(file, "adapter/values", H5T_IEEE_F32LE, space, H5P_DEFAULT, list,
                            H5P_DEFAULT));
        H5Sclose(space);
        H5Pclose(list);
    };
    expect_refused(
        [&](hid_t file) {
            const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
            H5Pset_external(list, "/etc/passwd", 0, 400);
            replace_values(file, list, 100);
        },
        "not a chunked dataset");
    expect_refused(
        [&](hid_t file) {
            const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
            const hsize_t chunk = 1 << 20;
            H5Pset_chunk(list, 1, &chunk);
            H5Pset_fletcher32(list);
            replace_values(file, list, hsize_t{1} << 44);
        },
        "but stores");
    expect_refused(
        [](hid_t file) {
            H5Ldelete(file, "adapter/values", H5P_DEFAULT);
            H5Lcreate_external("/tmp/other.h5", "/values", file, "adapter/values", H5P_DEFAULT,
                               H5P_DEFAULT);
        },
        "soft or external link");
    expect_refused([](hid_t file) { H5Ldelete(file, "adapter/index", H5P_DEFAULT); }, "\"index\"");
    expect_refused([](hid_t file) { H5Adelete(file, "seed"); }, "seed");
}

TEST(CheckpointStore, TheBestStepIsNeverPruned) {
    const TempFolder folder;
    CheckpointStore store(folder.path());
    for (int step = 1; step <= 7; ++step) store.save(sample_state(step), 3, 2);
    std::vector<std::int64_t> steps;
    for (const Generation& generation : store.list()) steps.push_back(generation.step);
    EXPECT_EQ(steps, (std::vector<std::int64_t>{7, 6, 5, 2}));
    EXPECT_EQ(store.load_step(2)->state, sample_state(2));
    EXPECT_FALSE(store.load_step(3).has_value());
}

TEST(CheckpointStore, GoingBackSetsAsideWhatIsNewerAndLosesNothing) {
    const TempFolder folder;
    CheckpointStore store(folder.path() / "run");
    for (int step = 1; step <= 3; ++step) store.save(sample_state(step));
    const fs::path second = folder.path() / "run/step-00000002.h5";
    CheckpointState other = sample_state(2);
    other.loss = 77;
    store.save(other);  // a second revision of the step: not the chosen one
    const fs::path log = folder.write("metrics.jsonl", "{}\n");
    const auto aside = store.go_back_to(sample_state(2), second, log);
    ASSERT_EQ(aside, folder.path() / "run/abandoned-1");
    EXPECT_EQ(CheckpointStore::load(*aside / "step-00000003.h5"), sample_state(3));
    EXPECT_EQ(CheckpointStore::load(*aside / "step-00000002.1.h5"), other);
    EXPECT_EQ(store.load_newest([](auto&, auto& why) { FAIL() << why; })->state, sample_state(2));
    EXPECT_TRUE(fs::exists(*aside / "metrics.jsonl"));
    EXPECT_FALSE(store.go_back_to(sample_state(2), second, log).has_value())
        << "nothing is newer now";
    EXPECT_FALSE(store.finish_going_back().has_value());

    // From the folder that was set aside, or from another run's: it is saved here first.
    const auto again = store.go_back_to(sample_state(3), *aside / "step-00000003.h5", log);
    EXPECT_FALSE(again.has_value());
    EXPECT_EQ(store.load_newest([](auto&, auto& why) { FAIL() << why; })->state, sample_state(3));
}

TEST(CheckpointStore, AnInterruptedGoingBackIsEndedByTheNextStart) {
    const TempFolder folder;
    CheckpointStore store(folder.path());
    for (int step = 1; step <= 4; ++step) store.save(sample_state(step), 9);
    // As a kill leaves it after the first of three: linked, its manifest gone.
    folder.write("going-back-to", "step-00000001.h5");
    fs::create_directory(folder.path() / "abandoned-1");
    for (const char* name : {"step-00000004.h5", "step-00000004.h5.json"})
        fs::create_hard_link(folder.path() / name, folder.path() / "abandoned-1" / name);
    fs::remove(folder.path() / "step-00000004.h5.json");
    const auto aside = store.finish_going_back();
    ASSERT_EQ(aside, folder.path() / "abandoned-1");
    for (int step = 2; step <= 4; ++step) {
        EXPECT_EQ(CheckpointStore::load(*aside / fmt::format("step-{:08}.h5", step)),
                  sample_state(step));
    }
    EXPECT_EQ(store.load_newest([](auto&, auto& why) { FAIL() << why; })->state, sample_state(1));
    EXPECT_FALSE(store.finish_going_back().has_value());
}

TEST(AtomicFile, OnlyTemporaryFilesOfKilledWritersAreRemoved) {
    const TempFolder folder;
    for (const char* name : {".run.yaml.tmp-411-0", ".a.b.tmp-1-22"}) folder.write(name, "half");
    for (const char* name : {"run.yaml", ".hidden", ".x.tmp-mine", "a.tmp-1-1"})
        folder.write(name, "kept");
    remove_temporaries(folder.path());
    remove_temporaries(folder.path() / "none");
    std::set<std::string> left;
    for (const auto& entry : fs::directory_iterator(folder.path()))
        left.insert(entry.path().filename());
    EXPECT_EQ(left, (std::set<std::string>{"run.yaml", ".hidden", ".x.tmp-mine", "a.tmp-1-1"}));
}

}  // namespace
}  // namespace qshard
