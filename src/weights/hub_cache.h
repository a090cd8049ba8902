// The Hugging Face cache of this machine: models--ORG--NAME/{refs,snapshots}.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "weights/source.h"

namespace calotype {

// $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; empty where there is no home.
std::string hub_cache_folder();

// The snapshot of a repo id ("Tongyi-MAI/Z-Image-Turbo") that refs/main names, else the newest one;
// one that has an autoencoder before one that has none, since a snapshot holds only what was asked
// for. Nothing where the cache has none, or where `repo` is no repo id.
std::optional<std::string> find_hub_snapshot(const std::string& repo);

// The autoencoder of a snapshot: a diffusers folder in its vae/ or at its root, else the one
// .safetensors file at its root that holds an autoencoder (ae.safetensors before others).
// Throws Error(kInvalidData) naming them where there are several.
bool snapshot_has_vae(const std::string& snapshot);
Source read_hub_snapshot(const std::string& snapshot, const LoadOptions& options);

std::vector<std::string> list_hub_repos();  // repo ids, sorted

}  // namespace calotype
