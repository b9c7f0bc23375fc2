# shellcheck shell=bash
# Sourced: CUDA's libraries, wherever this machine has them, and those of a bundle, in LD_LIBRARY_PATH. Programs of a bundle
# that are started by hand need it, too:  . ./libraries.sh; bin/qshard doctor
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
packages=$(python3 -c 'import site; print(*site.getsitepackages(), sep="\n")' 2>/dev/null || true)
for name in libcublasLt.so.13 libcublasLt.so.12 libnccl.so.2; do
    for folder in /usr/local/cuda/lib64 /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib /usr/lib/x86_64-linux-gnu \
        ${CONDA_PREFIX:+"$CONDA_PREFIX"/lib} ${packages:+${packages%%$'\n'*}/nvidia/*/lib} \
        /opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib /usr/lib/python3*/site-packages/nvidia/*/lib \
        /usr/local/lib/python3*/*-packages/nvidia/*/lib /usr/local/nvidia/lib64; do
        [ -e "$folder/$name" ] || continue
        case :${LD_LIBRARY_PATH:-}: in
            *:"$folder":*) ;;
            *) LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder ;;
        esac
        break
    done
done
# The bundle's own: some of them have a search path that hides the programs'.
[ -d "$bundle/lib" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$bundle/lib
export LD_LIBRARY_PATH
unset bundle packages name folder
