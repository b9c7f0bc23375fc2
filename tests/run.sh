#!/bin/bash
# The whole test suite: build with warnings as errors, tests, CUDA as far as it goes without a GPU, sanitizers, job
# scripts. What is checked of the program's text is in tests/lint.sh.
#
#   tests/run.sh [--quick] [--backend NAME] [--transport NAME]
#
#   --quick             no sanitizer build and no Slurm
#   --backend NAME      only this backend where a test has a choice (QSHARD_TEST_BACKEND): cpu, reference, guarded, cuda
#   --transport NAME    only this transport likewise (QSHARD_TEST_TRANSPORT): self, threads, mpi, nccl
#
# Needs jobs/packages.txt (jobs/install_packages.sh). The last line is "N passed, N failed" and ", N skipped" if any; the
# exit code is 1 if anything failed. Why tests were skipped is printed before.
# shellcheck disable=SC2317 # functions that "one" calls
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

quick=no
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=yes ;;
        --backend | --transport)
            [ $# -ge 2 ] || { echo "run.sh: $1 needs a name" >&2 && exit 64; }
            [ "$1" = --backend ] && export QSHARD_TEST_BACKEND=$2
            [ "$1" = --transport ] && export QSHARD_TEST_TRANSPORT=$2
            shift
            ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;;
        *) echo "run.sh: unknown option $1" >&2 && exit 64 ;;
    esac
    shift
done

passed=0 failed=0 skipped=0
logs=$(mktemp -d)
slurm= # the process of the test that runs beside others
clean_up() {
    [ -z "$slurm" ] || { kill "$slurm" && wait "$slurm"; }
    rm -rf "$logs"
}
trap clean_up EXIT

headline() {
    printf '\n== %s\n' "$*"
}

count() { # PASSED FAILED SKIPPED
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

summary() {
    echo
    echo "$passed passed, $failed failed$([ "$skipped" = 0 ] || echo ", $skipped skipped")"
    [ "$failed" = 0 ]
    exit
}

# one NAME COMMAND...: a step that is one test.
one() {
    local name=$1
    shift
    headline "$name"
    if "$@"; then count 1 0 0; else
        echo "FAILED: $name"
        count 0 1 0
        return 1
    fi
}

# Adds up what a ctest log says: GoogleTest's cases, and programs of other kinds as one test each.
count_ctest() {
    read -r ok bad skips < <(awk '
        function close_program() {
            if (program == "") return
            if (cases == 0) { if (state == "Passed") ok++; else if (state == "Skipped") skips++; else bad++ }
            else if (state == "Failed" && program_bad == 0) bad++
        }
        /^[0-9]+\/[0-9]+ Testing: / { close_program(); program = $NF; cases = program_bad = 0; state = "Failed"; delete seen }
        /^\[ +(OK|SKIPPED|FAILED) +\] [^ ]+\.[^ ]+/ {
            name = $0; sub(/^\[[^]]*\] /, "", name); sub(/[ ,].*/, "", name)
            if (name in seen) next
            seen[name] = 1; cases++
            if ($0 ~ /^\[ +OK/) ok++; else if ($0 ~ /^\[ +SKIPPED/) skips++; else { bad++; program_bad++ }
        }
        /^Test (Passed|Failed|Skipped)\./ { state = $2; sub(/\./, "", state) }
        END { close_program(); print ok + 0, bad + 0, skips + 0 }' "$1/Testing/Temporary/LastTest.log")
    count "$ok" "$bad" "$skips"
    # GoogleTest prints "file:line: Skipped", then the reason.
    awk '/: Skipped$/ { getline; print "SKIP " $0 }' "$1/Testing/Temporary/LastTest.log" | sort | uniq -c | sort -rn
}

run_ctest() { # FOLDER CTEST_FLAGS...
    local folder=$1
    shift
    rm -f "$folder/Testing/Temporary/LastTest.log"
    ctest --test-dir "$folder" -j2 --output-on-failure "$@"
    if [ -s "$folder/Testing/Temporary/LastTest.log" ]; then count_ctest "$folder"; else
        echo "FAILED: ctest ran nothing in $folder"
        count 0 1 0
    fi
}

build() { # FOLDER TARGET CMAKE_FLAGS...
    local folder=$1 target=$2
    shift 2
    cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DQSHARD_WERROR=ON "$@" >"$logs/cmake" || { cat "$logs/cmake" && return 1; }
    nice ninja -C "$folder" "$target"
}

# count_script LOG CODE: a test script that ends with "N passed, N failed", or with 77 if it cannot run here.
count_script() {
    if [ "$2" = 77 ]; then count 0 0 1 && return; fi
    local ok=0 bad=0
    read -r ok bad < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed.*/\1 \2/p' "$1" | tail -n 1)
    [ "$2" = 0 ] || [ "${bad:-0}" -gt 0 ] || bad=1
    count "${ok:-0}" "${bad:-0}" 0
}

run_python() {
    headline "$1"
    python3 -B "$1" 2>&1 | tee "$logs/python"
    local code=${PIPESTATUS[0]} ran bad
    ran=$(sed -nE 's/^Ran ([0-9]+) tests?.*/\1/p' "$logs/python")
    bad=$(grep -cE '^(FAIL|ERROR): ' "$logs/python")
    [ "$code" = 0 ] || [ "$bad" -gt 0 ] || bad=1
    count "$((${ran:-0} > bad ? ${ran:-0} - bad : 0))" "$bad" 0
}

if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export OMPI_MCA_btl_vader_single_copy_mechanism=none # containers forbid it, with a warning a rank

for script in tests/jobs/test_*.py; do run_python "$script"; done

one "build" build build all || summary

headline "model"
if QSHARD_TEST_MODEL=$(jobs/get_model.sh); then
    export QSHARD_TEST_MODEL
    echo "$QSHARD_TEST_MODEL"
else
    unset QSHARD_TEST_MODEL
    echo "SKIP: tests with the real model (it is not cached and could not be fetched)"
fi

headline "tests"
run_ctest build

headline "CUDA"
if command -v nvcc >/dev/null; then
    # Nothing here runs a GPU's code: what can be checked is that it compiles, keeps to its registers, links and says that
    # there is no GPU. Only the backend and the transport differ from the other build.
    one "registers of the kernels" tests/gpu/spills.sh 90
    one "build with CUDA" build build-cuda test_cuda_platform -DQSHARD_CUDA=ON -DQSHARD_CUDA_ARCHITECTURES=90-real &&
        run_ctest build-cuda -R '^test_cuda_platform$'
else
    echo "SKIP: the build with CUDA (no nvcc)"
    count 0 0 2
fi

if [ "$quick" = yes ]; then
    echo "SKIP: sanitizers and Slurm (--quick)"
    count 0 0 2
    summary
fi

# Most of what the Slurm test does is wait, so it runs beside the sanitizer build, which gives way to it.
tests/jobs/test_slurm.sh >"$logs/slurm" 2>&1 &
slurm=$!
built=no
one "build with AddressSanitizer and UndefinedBehaviorSanitizer" \
    build build-asan unit_tests -DQSHARD_SANITIZE=ON && built=yes
headline "tests/jobs/test_slurm.sh"
wait "$slurm"
code=$? slurm=
cat "$logs/slurm"
count_script "$logs/slurm" "$code"
if [ "$built" = yes ]; then
    headline "unit tests under the sanitizers"
    run_ctest build-asan -L '^unit$'
fi
summary
