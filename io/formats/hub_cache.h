#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace qshard {

/// The folder in which huggingface_hub keeps the model OWNER/NAME, the last two names of `model`,
/// that it has downloaded here (the revision "main", or the only one), if there is one. Looks where
/// that library does: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
/// ~/.cache/huggingface/hub.
std::optional<std::filesystem::path> find_in_hub_cache(const std::filesystem::path& model);

/// What a model's folder is called: its own name, or NAME for one of that cache.
std::string name_of_folder(const std::filesystem::path& folder);

}  // namespace qshard
