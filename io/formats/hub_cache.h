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

/// What to do about a model or adapter that is not there, in lines that begin with a newline:
/// where Hugging Face's cache has one of that name, or how to download it if it may be an id of the
/// Hub (OWNER/NAME, where OWNER is no folder; or a bare name). Empty if neither.
std::string advice_on_missing(const std::filesystem::path& path);

/// Whether `file` is among the blobs of the model of which `folder` is a snapshot in Hugging Face's
/// cache: .../models--OWNER--NAME/snapshots/REVISION. Both without links.
bool is_blob_of_snapshot(const std::filesystem::path& file, const std::filesystem::path& folder);
/// Whether `file` lies in `folder` or below it. Both without links.
bool is_within(const std::filesystem::path& file, const std::filesystem::path& folder);

/// What a model's folder is called: its own name, or NAME for one of that cache.
std::string name_of_folder(const std::filesystem::path& folder);

}  // namespace qshard
