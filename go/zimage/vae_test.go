package zimage

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"calotype"
)

// ollamaStore makes a store with the embedded model as `mini` in it, by the calotype program that the
// environment variable CALOTYPE_PROGRAM names.
func ollamaStore(t *testing.T) string {
	t.Helper()
	program := os.Getenv("CALOTYPE_PROGRAM")
	if program == "" {
		t.Fatal("CALOTYPE_PROGRAM must name the calotype program")
	}
	store := t.TempDir()
	t.Setenv("OLLAMA_MODELS", store)
	command := exec.Command(program, "convert", "--quiet", "--ollama", "mini")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return store
}

func TestTheVAEOfAManifestDecodesAndEncodes(t *testing.T) {
	ollamaStore(t)
	manifest, err := LoadManifest("mini")
	if err != nil {
		t.Fatal(err)
	}
	var vae VAE
	if err := vae.Load(manifest); err != nil {
		t.Fatal(err)
	}
	defer vae.Close()
	if vae.Config.LatentChannels != 16 || len(vae.Config.BlockOutChannels) != 4 || vae.Config.NormNumGroups != 32 {
		t.Errorf("%+v", vae.Config)
	}
	pixels := calotype.NewTensor(1, 3, 32, 48)
	for i := range pixels.Data {
		pixels.Data[i] = float32(i%48) / 47
	}
	latents, err := vae.Encode(pixels)
	if err != nil {
		t.Fatal(err)
	}
	if latents.Shape != [4]int{1, 16, 4, 6} {
		t.Fatal(latents.Shape)
	}
	back, err := vae.Decode(latents)
	if err != nil {
		t.Fatal(err)
	}
	if back.Shape != pixels.Shape {
		t.Fatal(back.Shape)
	}
	var sum float64
	for i, value := range back.Data {
		if value < 0 || value > 1 {
			t.Fatal("a value outside [0, 1]: ", value)
		}
		sum += math.Pow(float64(value-pixels.Data[i]), 2)
	}
	if rms := math.Sqrt(sum / float64(len(back.Data))); rms > 0.1 {
		t.Errorf("the round trip is off by %.3f", rms)
	}

	embedded, err := calotype.Load("")
	if err != nil {
		t.Fatal(err)
	}
	defer embedded.Close()
	direct, err := embedded.DecodeTensor(context.Background(), latents)
	if err != nil {
		t.Fatal(err)
	}
	for i, value := range back.Data {
		if want := float32(math.Min(math.Max(float64(direct.Data[i]/2+0.5), 0), 1)); value != want {
			t.Fatalf("value %d is %v, but %v by the model itself", i, value, want)
		}
	}
}

func TestAMissingBlobIsNamed(t *testing.T) {
	ollamaStore(t)
	manifest, err := LoadManifest("mini:latest")
	if err != nil {
		t.Fatal(err)
	}
	manifest.BlobDir = t.TempDir()
	err = new(VAE).Load(manifest)
	if err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Error(err)
	}
	if err := new(VAE).Load(nil); err == nil {
		t.Error("loaded no manifest")
	}
}

func TestAVAEThatIsNotLoadedSaysSo(t *testing.T) {
	var vae VAE
	if _, err := vae.Decode(calotype.NewTensor(1, 16, 1, 1)); err == nil {
		t.Error("decoded")
	}
	if _, err := vae.Encode(calotype.NewTensor(1, 3, 8, 8)); err == nil {
		t.Error("encoded")
	}
	if err := vae.Close(); err != nil {
		t.Error(err)
	}
}

func TestNamesOfOllamaLeadToManifests(t *testing.T) {
	for name, want := range map[string]string{
		"z-image":           "registry.ollama.ai/library/z-image/latest",
		"z-image:turbo":     "registry.ollama.ai/library/z-image/turbo",
		"ns/z-image":        "registry.ollama.ai/ns/z-image/latest",
		"host:80/ns/m:q8":   "host:80/ns/m/q8",
		"example.org/ns/ab": "example.org/ns/ab/latest",
	} {
		path, err := manifestPath("/store", name)
		if err != nil || path != filepath.Join("/store/manifests", want) {
			t.Errorf("%s: %s, %v", name, path, err)
		}
	}
	for _, name := range []string{"", "../../etc/passwd", "a/b/c/d", "m:", "m:..", "a//b"} {
		if path, err := manifestPath("/store", name); err == nil {
			t.Errorf("%q leads to %s", name, path)
		}
	}
	t.Setenv("OLLAMA_MODELS", t.TempDir())
	if _, err := LoadManifest("absent"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
