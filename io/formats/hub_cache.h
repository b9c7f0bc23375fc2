#pragma once

#include <filesystem>
#include <optional>

namespace qshard {

/// The folder in which huggingface_hub keeps the model OWNER/NAME, the last two names of `model`,
/// that it has downloaded here (the revision "main", or the only one), if there is one. Looks where
/// that library does: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
/// ~/.cache/huggingface/hub.
std::optional<std::filesystem::path> find_in_hub_cache(const std::filesystem::path& model);

}  // namespace qshard
