// Package calotype decodes latents of diffusion models to pictures and encodes pictures to latents:
// the KL autoencoder of Z-Image, FLUX, Stable Diffusion, exact at any size, on CPUs.
//
//	vae, err := calotype.Load("z-image")
//	picture, err := vae.Decode(ctx, latents)
//
// It is a cgo package over libcalotype, which pkg-config must find; where it does not lie on the
// default path, set PKG_CONFIG_PATH. The module is used from a checkout:
//
//	require calotype v0.1.0
//	replace calotype => /path/to/calotype/go
package calotype

// #cgo pkg-config: calotype
// #include <calotype/calotype.h>
// #include <stdlib.h>
import "C"

import (
	"encoding/json"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Models that are loaded and not freed; what tests of finalisers look at.
var openModels int64

// ErrClosed is what the methods of a closed model return.
var ErrClosed = errors.New("calotype: the model is closed")

// AutoencoderKL is a loaded model. It may be used from several goroutines at once.
type AutoencoderKL struct {
	info   Info
	mutex  sync.Mutex // of what follows; never held while a job runs, whose callbacks may do anything
	model  *C.calotype_model
	jobs   int
	closed bool
}

// Info says what a model is.
type Info struct {
	HasEncoder, HasDecoder bool
	ConfigInferred         bool  // the source had no config
	Channels               int   // of scaled latents
	Factor                 int   // picture pixels per latent pixel
	EncoderParameters      int64 // quant_conv included
	DecoderParameters      int64 // post_quant_conv included
	ScalingFactor          float64
	ShiftFactor            float64 // 0 where the config has none
	Source                 string  // "embedded", or the paths of the model
	Family                 string  // "flux", "sd1", "sd2", "sdxl", "sd3", "flux2" or "custom"
	ConfigJSON             string  // as diffusers writes config.json
}

// LoadOption changes how Load reads a model.
type LoadOption func(*loadOptions)

type loadOptions struct {
	family string
	verify bool
}

// Family says whose latent space the model has, whatever its config says: "flux", "sd1", "sd2",
// "sdxl", "sd3" or "flux2".
func Family(family string) LoadOption {
	return func(o *loadOptions) { o.family = family }
}

// Verify checks digests where the container has them.
func Verify() LoadOption {
	return func(o *loadOptions) { o.verify = true }
}

// Load loads a model: "" is the embedded one; else a path (a diffusers folder, a .safetensors or
// .gguf file, an Ollama manifest), a Hugging Face repo id in the local cache, or an Ollama name.
// Close frees it; the garbage collector does too.
func Load(name string, options ...LoadOption) (*AutoencoderKL, error) {
	var chosen loadOptions
	for _, option := range options {
		option(&chosen)
	}
	cName := C.CString(name)
	defer C.free(unsafe.Pointer(cName))
	cOptions := C.calotype_load_options_defaults()
	if chosen.family != "" {
		cOptions.family = C.CString(chosen.family)
		defer C.free(unsafe.Pointer(cOptions.family))
	}
	if chosen.verify {
		cOptions.verify = 1
	}
	var model *C.calotype_model
	if err := call(func() C.calotype_status { return C.calotype_load(cName, &cOptions, &model) }); err != nil {
		return nil, err
	}
	vae := &AutoencoderKL{model: model}
	if err := vae.readInfo(); err != nil {
		C.calotype_free(model)
		return nil, err
	}
	atomic.AddInt64(&openModels, 1)
	runtime.SetFinalizer(vae, func(vae *AutoencoderKL) { vae.Close() })
	return vae, nil
}

func (vae *AutoencoderKL) readInfo() error {
	info := C.calotype_info_defaults()
	if err := call(func() C.calotype_status { return C.calotype_get_info(vae.model, &info) }); err != nil {
		return err
	}
	vae.info = Info{
		HasEncoder:        info.has_encoder != 0,
		HasDecoder:        info.has_decoder != 0,
		ConfigInferred:    info.config_inferred != 0,
		Channels:          int(info.channels),
		Factor:            int(info.factor),
		EncoderParameters: int64(info.encoder_parameters),
		DecoderParameters: int64(info.decoder_parameters),
		ScalingFactor:     float64(info.scaling_factor),
		ShiftFactor:       float64(info.shift_factor),
		Source:            C.GoString(C.calotype_model_source(vae.model)),
		Family:            C.GoString(C.calotype_model_family(vae.model)),
		ConfigJSON:        C.GoString(C.calotype_config_json(vae.model)),
	}
	return nil
}

// Info says what the model is.
func (vae *AutoencoderKL) Info() Info { return vae.info }

// Config parses the model's config.json into what `config` points to, as json.Unmarshal does.
func (vae *AutoencoderKL) Config(config any) error {
	return json.Unmarshal([]byte(vae.info.ConfigJSON), config)
}

// Close lets no further job begin and frees the model, or has the last of the jobs that run free it.
// It waits for nothing, so that even a Progress function may call it. Closing twice is allowed.
func (vae *AutoencoderKL) Close() error {
	vae.mutex.Lock()
	defer vae.mutex.Unlock()
	if !vae.closed {
		vae.closed = true
		runtime.SetFinalizer(vae, nil)
		vae.freeIfDone()
	}
	return nil
}

// freeIfDone frees a closed model that no job uses. The mutex is held.
func (vae *AutoencoderKL) freeIfDone() {
	if vae.closed && vae.jobs == 0 {
		C.calotype_free(vae.model)
		vae.model = nil
		atomic.AddInt64(&openModels, -1)
	}
}

// use runs a job on the open model and keeps it loaded meanwhile.
func (vae *AutoencoderKL) use(job func(model *C.calotype_model) error) error {
	vae.mutex.Lock()
	if vae.closed {
		vae.mutex.Unlock()
		return ErrClosed
	}
	vae.jobs++
	vae.mutex.Unlock()
	defer func() {
		vae.mutex.Lock()
		vae.jobs--
		vae.freeIfDone()
		vae.mutex.Unlock()
	}()
	return job(vae.model)
}

// ModelEntry is a model that Load finds by Name.
type ModelEntry struct {
	Name      string // "" is the embedded model
	Container string // "embedded", "ollama", "hub"
	Path      string
	Family    string // empty where it could not be read; Problem says why
	Problem   string
	Bytes     int64
}

// List names the embedded model, and those of the Ollama store and the Hugging Face cache that have
// an autoencoder.
func List() ([]ModelEntry, error) {
	var entries *C.calotype_model_entry
	var count C.size_t
	if err := call(func() C.calotype_status { return C.calotype_list_models(&entries, &count) }); err != nil {
		return nil, err
	}
	defer C.calotype_free_list(entries)
	models := make([]ModelEntry, 0, int(count))
	for _, entry := range unsafe.Slice(entries, int(count)) {
		models = append(models, ModelEntry{
			Name:      C.GoString(entry.name),
			Container: C.GoString(entry.container),
			Path:      C.GoString(entry.path),
			Family:    C.GoString(entry.family),
			Problem:   C.GoString(entry.problem),
			Bytes:     int64(entry.bytes),
		})
	}
	return models, nil
}

// Version is the version of the library that runs.
func Version() string { return C.GoString(C.calotype_version()) }
