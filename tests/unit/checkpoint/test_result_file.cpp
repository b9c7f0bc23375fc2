#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "base/error.h"
#include "io/checkpoint/result_file.h"
#include "tests/temp_folder.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

std::string text_of(const fs::path& file) {
    const std::vector<std::byte> bytes = read_file(file, 1 << 20);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// What is said when `body` refuses with kCannotCreate.
std::string refusal(const std::function<void()>& body) {
    try {
        body();
    } catch (const SystemError& error) {
        EXPECT_EQ(error.code(), ExitCode::kCannotCreate);
        return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
}

TEST(ResultFile, AnExistingFileIsKeptUnlessToldOtherwise) {
    const TempFolder folder;
    const fs::path file = folder.path() / "answers.jsonl";
    check_result_file(file, false);
    write_result(file, "one\n");
    EXPECT_NE(refusal([&] { check_result_file(file, false); }).find("--overwrite"),
              std::string::npos);
    check_result_file(file, true);
    fs::permissions(file, fs::perms::owner_read | fs::perms::owner_write);
    write_result(file, "two\n");
    EXPECT_EQ(text_of(file), "two\n");
    EXPECT_EQ(fs::status(file).permissions(), fs::perms::owner_read | fs::perms::owner_write);
    write_file_atomic(file, "");  // as mktemp makes it
    check_result_file(file, false);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1) << "left-overs";
}

TEST(ResultFile, LinksStayAndTheirTargetsAreWritten) {
    const TempFolder folder;
    fs::create_directory(folder.path() / "results");
    fs::create_symlink("results/run.jsonl", folder.path() / "middle");
    fs::create_symlink("middle", folder.path() / "latest");
    check_result_file(folder.path() / "latest", false);  // to nothing yet
    write_result(folder.path() / "latest", "one\n");
    EXPECT_TRUE(fs::is_symlink(folder.path() / "latest"));
    EXPECT_TRUE(fs::is_symlink(folder.path() / "middle"));
    EXPECT_EQ(text_of(folder.path() / "results/run.jsonl"), "one\n");
    refusal([&] { check_result_file(folder.path() / "latest", false); });

    fs::create_symlink("round", folder.path() / "again");
    fs::create_symlink("again", folder.path() / "round");
    EXPECT_NE(refusal([&] { check_result_file(folder.path() / "round", true); }).find("circle"),
              std::string::npos);
}

TEST(ResultFile, DevicesPipesAndDescriptorsAreWrittenTo) {
    const TempFolder folder;
    write_result("/dev/null", "gone");
    EXPECT_TRUE(fs::is_character_file("/dev/null"));

    const fs::path pipe = folder.path() / "pipe";
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    check_result_file(pipe, false);
    std::string read(5, ' ');
    std::jthread reader([&] {
        const int end = open(pipe.c_str(), O_RDONLY);
        EXPECT_EQ(::read(end, read.data(), read.size()), 5);
        close(end);
    });
    write_result(pipe, "pages");
    reader.join();
    EXPECT_EQ(read, "pages");
    EXPECT_TRUE(fs::is_fifo(pipe));

    // A descriptor goes on where it stands, also if it is a file's.
    const fs::path log = folder.path() / "log";
    const int descriptor = open(log.c_str(), O_WRONLY | O_CREAT, 0600);
    ASSERT_EQ(::write(descriptor, "before ", 7), 7);
    const fs::path name = "/dev/fd/" + std::to_string(descriptor);
    check_result_file(name, false);
    write_result(name, "after");
    close(descriptor);
    EXPECT_EQ(text_of(log), "before after");
    EXPECT_NE(refusal([&] { check_result_file(name, false); }).find("not open"), std::string::npos);
}

TEST(ResultFile, SaysWhatIsMissing) {
    const TempFolder folder;
    const fs::path there = folder.path();
    EXPECT_NE(refusal([&] { check_result_file(there / "a" / "b" / "x.jsonl", false); })
                  .find("there is no folder " + (there / "a").string() + ".\nTry: mkdir -p " +
                        (there / "a" / "b").string()),
              std::string::npos);
    EXPECT_NE(refusal([&] { check_result_file(there, true); }).find("is a folder"),
              std::string::npos);
    write_result(there / "file", "x");
    EXPECT_NE(refusal([&] { check_result_file(there / "file" / "x", false); }).find("is no folder"),
              std::string::npos);
    refusal([&] { check_result_file("", false); });
    EXPECT_THROW(refuse_to_replace(there / "file", there / "." / "file"), UserError);
    refuse_to_replace(there / "file", there / "other");

    check_result_folder(there / "new");
    EXPECT_NE(refusal([&] { check_result_folder(there); }).find("not empty"), std::string::npos);
    EXPECT_NE(refusal([&] { check_result_folder(there / "file"); }).find("no folder"),
              std::string::npos);
}

TEST(ResultFile, AFullDeviceIsAnError) {
    if (!fs::is_character_file("/dev/full")) GTEST_SKIP() << "no /dev/full here";
    try {
        write_result("/dev/full", "x");
        ADD_FAILURE() << "nothing was said";
    } catch (const SystemError& error) {
        EXPECT_EQ(error.code(), ExitCode::kIo);
    }
    EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

}  // namespace
}  // namespace qshard
