#include "../checkpoint/sample_state.h"
#include "io/checkpoint/store.h"

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    std::filesystem::remove_all(argv[1]);
    qshard::CheckpointStore(argv[1]).save(qshard::test::sample_state(12));
    return 0;
}
