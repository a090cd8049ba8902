// Package zimage stands in for the VAE of Ollama's x/imagegen/models/zimage: the same names and
// conventions over Calotype, for any Ollama model with an AutoencoderKL.
//
//	manifest, err := zimage.LoadManifest("z-image")
//	var vae zimage.VAE
//	err = vae.Load(manifest)
//	pixels, err := vae.Decode(latents) // NCHW, scaled -> NCHW in [0, 1]
package zimage

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"calotype"
)

// ManifestLayer is a layer of a manifest: a tensor or a file of the model.
type ManifestLayer struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Name      string `json:"name,omitempty"` // "vae/decoder.conv_in.weight", "vae/config.json"
}

// Manifest is the JSON of a manifest.
type Manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        ManifestLayer   `json:"config"`
	Layers        []ManifestLayer `json:"layers"`
}

// ModelManifest is a manifest and the folder of its blobs.
type ModelManifest struct {
	Manifest *Manifest
	BlobDir  string
}

// store is Ollama's folder of models.
func store() (string, error) {
	if models := os.Getenv("OLLAMA_MODELS"); models != "" {
		return models, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".ollama", "models"), err
}

// manifestPath is where the store keeps the manifest of a name: host/namespace/name:tag, of which all
// but the name may be left out.
func manifestPath(store, model string) (string, error) {
	name, tag, tagged := model, "latest", false
	if i := strings.LastIndex(model, ":"); i > strings.LastIndex(model, "/") {
		name, tag, tagged = model[:i], model[i+1:], true
	}
	parts := strings.Split(name, "/")
	defaults := []string{"registry.ollama.ai", "library"}
	if len(parts) > 3 || (tagged && tag == "") {
		return "", fmt.Errorf("%q is not a name of Ollama's: host/namespace/name:tag", model)
	}
	parts = append(defaults[:3-len(parts)], parts...)
	for _, part := range append(parts, tag) {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\\") {
			return "", fmt.Errorf("%q is not a name of Ollama's: host/namespace/name:tag", model)
		}
	}
	return filepath.Join(append([]string{store, "manifests"}, append(parts, tag)...)...), nil
}

// LoadManifest reads the manifest of a model from Ollama's store ($OLLAMA_MODELS, else
// ~/.ollama/models).
func LoadManifest(model string) (*ModelManifest, error) {
	folder, err := store()
	if err != nil {
		return nil, err
	}
	path, err := manifestPath(folder, model)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	manifest := &ModelManifest{Manifest: &Manifest{}, BlobDir: filepath.Join(folder, "blobs")}
	if err := json.Unmarshal(text, manifest.Manifest); err != nil {
		return nil, fmt.Errorf("parse manifest %s: %w", path, err)
	}
	return manifest, nil
}

// VAEConfig is what Ollama's code reads of vae/config.json.
type VAEConfig struct {
	InChannels       int32   `json:"in_channels"`
	OutChannels      int32   `json:"out_channels"`
	LatentChannels   int32   `json:"latent_channels"`
	BlockOutChannels []int32 `json:"block_out_channels"`
	LayersPerBlock   int32   `json:"layers_per_block"`
	NormNumGroups    int32   `json:"norm_num_groups"`
	ScalingFactor    float32 `json:"scaling_factor"`
	ShiftFactor      float32 `json:"shift_factor"`
}

// VAE decodes and encodes. There is no tiling: Calotype is exact at any size.
type VAE struct {
	Config *VAEConfig
	// Options of every job: threads, memory, progress.
	Options []calotype.Option

	model *calotype.AutoencoderKL
}

// Load loads the VAE of a manifest. Its blobs are mapped, not copied, and checked.
func (vae *VAE) Load(manifest *ModelManifest) error {
	path, remove, err := layOut(manifest)
	if err != nil {
		return err
	}
	defer remove()
	model, err := calotype.Load(path)
	if err != nil {
		return fmt.Errorf("load the VAE: %w", err)
	}
	var config VAEConfig
	if err := model.Config(&config); err != nil {
		model.Close()
		return fmt.Errorf("config: %w", err)
	}
	vae.Close()
	vae.model, vae.Config = model, &config
	return nil
}

// layOut gives the library a store with this manifest in it alone, and the manifest's blobs.
func layOut(manifest *ModelManifest) (path string, remove func(), err error) {
	if manifest == nil || manifest.Manifest == nil {
		return "", nil, fmt.Errorf("the manifest is nil")
	}
	blobs, err := filepath.Abs(manifest.BlobDir)
	if err != nil {
		return "", nil, err
	}
	text, err := json.Marshal(manifest.Manifest)
	if err != nil {
		return "", nil, err
	}
	folder, err := os.MkdirTemp("", "calotype-manifest-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(folder) }
	path = filepath.Join(folder, "manifests", "registry.ollama.ai", "library", "model", "latest")
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err == nil {
		err = os.Symlink(blobs, filepath.Join(folder, "blobs"))
	}
	if err != nil {
		remove()
		return "", nil, err
	}
	return path, remove, nil
}

// Close frees the model; the garbage collector does too.
func (vae *VAE) Close() error {
	if vae.model == nil {
		return nil
	}
	return vae.model.Close()
}

func (vae *VAE) loaded() (*calotype.AutoencoderKL, error) {
	if vae.model == nil {
		return nil, fmt.Errorf("the VAE is not loaded")
	}
	return vae.model, nil
}

// Decode decodes scaled latents, NCHW, to pictures, NCHW in [0, 1].
func (vae *VAE) Decode(latents *calotype.Tensor) (*calotype.Tensor, error) {
	return vae.DecodeContext(context.Background(), latents)
}

// DecodeContext is Decode that ends when `ctx` does.
func (vae *VAE) DecodeContext(ctx context.Context, latents *calotype.Tensor) (*calotype.Tensor, error) {
	model, err := vae.loaded()
	if err != nil {
		return nil, err
	}
	pixels, err := model.DecodeTensor(ctx, latents, vae.Options...)
	if err != nil {
		return nil, err
	}
	for i, value := range pixels.Data {
		unit := value/2 + 0.5
		switch {
		case unit > 1:
			unit = 1
		case !(unit > 0): // NaN too
			unit = 0
		}
		pixels.Data[i] = unit
	}
	return pixels, nil
}

// Encode encodes pictures, NCHW in [0, 1], to scaled latents, NCHW.
func (vae *VAE) Encode(pixels *calotype.Tensor) (*calotype.Tensor, error) {
	return vae.EncodeContext(context.Background(), pixels)
}

// EncodeContext is Encode that ends when `ctx` does.
func (vae *VAE) EncodeContext(ctx context.Context, pixels *calotype.Tensor) (*calotype.Tensor, error) {
	model, err := vae.loaded()
	if err != nil {
		return nil, err
	}
	if pixels == nil {
		return nil, fmt.Errorf("the pictures are nil")
	}
	signed := &calotype.Tensor{Shape: pixels.Shape, Data: make([]float32, len(pixels.Data))}
	for i, value := range pixels.Data {
		signed.Data[i] = 2*value - 1
	}
	return model.EncodeTensor(ctx, signed, vae.Options...)
}
