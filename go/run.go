package calotype

// #include <calotype/calotype.h>
// #include <stdlib.h>
//
// int calotypeGoProgress(double fraction, char* layer, uintptr_t user);
//
// static int forward_progress(double fraction, const char* layer, void* user) {
//   return calotypeGoProgress(fraction, (char*)layer, *(uintptr_t*)user);
// }
//
// // A handle is a small number, which Go must not see in a field that holds pointers: it lies in C's
// // memory.
// static void* set_progress(calotype_run_options* options, uintptr_t handle) {
//   uintptr_t* cell = malloc(sizeof *cell);
//   if (cell == NULL) return NULL;
//   *cell = handle;
//   options->progress = forward_progress;
//   options->user = cell;
//   return cell;
// }
import "C"

import (
	"context"
	"errors"
	"image"
	"math"
	"runtime/cgo"
)

// Tensor is a dense array of float32, NCHW: [batch, channels, height, width].
type Tensor struct {
	Shape [4]int
	Data  []float32
}

// NewTensor makes a tensor of zeros.
func NewTensor(batch, channels, height, width int) *Tensor {
	return &Tensor{
		Shape: [4]int{batch, channels, height, width},
		Data:  make([]float32, batch*channels*height*width),
	}
}

func (tensor *Tensor) check(what string) error {
	if tensor == nil {
		return &Error{InvalidArgument, "the " + what + " is nil"}
	}
	count := 1
	for _, side := range tensor.Shape {
		if side < 1 || count > math.MaxInt32*1024/side {
			return &Error{InvalidArgument, "the shape of the " + what + " cannot be"}
		}
		count *= side
	}
	if len(tensor.Data) != count {
		return &Error{InvalidArgument, "the data of the " + what + " is not of the length that its shape says"}
	}
	return nil
}

func (tensor *Tensor) shape() C.calotype_shape {
	s := tensor.Shape
	return C.calotype_shape{
		batch: C.int64_t(s[0]), channels: C.int64_t(s[1]),
		height: C.int64_t(s[2]), width: C.int64_t(s[3]),
	}
}

// Precision is the arithmetic of a job.
type Precision int

const (
	F32  Precision = C.CALOTYPE_F32
	Fast Precision = C.CALOTYPE_FAST // CPU: float32 with faster, less exact convolutions
	BF16 Precision = C.CALOTYPE_BF16 // bf16 products, float32 sums, where the machine has them
	F16  Precision = C.CALOTYPE_F16  // GPU: f16 products, float32 sums
	FP8  Precision = C.CALOTYPE_FP8  // GPU, sm_90: e4m3 products in the 3x3 convolutions
)

// Backend is what a job runs on.
type Backend int

const (
	CPU       Backend = C.CALOTYPE_CPU
	CUDA      Backend = C.CALOTYPE_CUDA      // an NVIDIA GPU
	Reference Backend = C.CALOTYPE_REFERENCE // float64 in plain loops: slow
)

// Option changes how a job runs.
type Option func(*options)

type options struct {
	run      C.calotype_run_options
	progress func(fraction float64, layer string) bool
}

// Threads bounds how many threads a job takes; without it, as many as the process may use.
func Threads(count int) Option {
	return func(o *options) { o.run.threads = C.int32_t(count) }
}

// Memory bounds the peak of a job, in bytes.
func Memory(bytes int64) Option {
	return func(o *options) { o.run.memory = C.int64_t(bytes) }
}

// WithBackend chooses what a job runs on; without it, an NVIDIA GPU where there is one, else the CPU.
func WithBackend(backend Backend) Option {
	return func(o *options) { o.run.backend = C.int32_t(backend) }
}

// Device chooses the GPU.
func Device(index int) Option {
	return func(o *options) { o.run.device = C.int32_t(index) }
}

// WithPrecision chooses the arithmetic; without it, F32 on the CPU and BF16 on a GPU.
func WithPrecision(precision Precision) Option {
	return func(o *options) { o.run.precision = C.int32_t(precision) }
}

// Unscaled says that latents are raw z, as the decoder takes them and the encoder gives them.
func Unscaled() Option {
	return func(o *options) { o.run.unscaled = 1 }
}

// Sample draws from the encoder's posterior instead of taking its mode: the same for a seed on every
// machine.
func Sample(seed uint64) Option {
	return func(o *options) {
		o.run.sample = 1
		o.run.seed = C.uint64_t(seed)
	}
}

// Progress has a function called several times a second, from the goroutine of the job, with the
// fraction done and the layer at work. Where it returns false the job ends with Cancelled.
func Progress(progress func(fraction float64, layer string) bool) Option {
	return func(o *options) { o.progress = progress }
}

// run calls `function` with the options of a job that ends when `ctx` does.
func (vae *AutoencoderKL) run(ctx context.Context, chosen []Option,
	function func(*C.calotype_model, *C.calotype_run_options) C.calotype_status) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	all := options{run: C.calotype_run_options_defaults()}
	for _, option := range chosen {
		option(&all)
	}
	running := &job{ctx: ctx, progress: all.progress}
	handle := cgo.NewHandle(running)
	defer handle.Delete()
	run := all.run // on its own: C may see no memory that holds pointers of Go
	cell := C.set_progress(&run, C.uintptr_t(handle))
	if cell == nil {
		return &Error{OutOfMemory, "there is no memory for a handle"}
	}
	defer C.free(cell)
	err := vae.use(func(model *C.calotype_model) error {
		return call(func() C.calotype_status { return function(model, &run) })
	})
	if running.panicked != nil {
		panic(running.panicked)
	}
	if errors.Is(err, Cancelled) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (vae *AutoencoderKL) imageShape(latents *Tensor, chosen []Option) (shape C.calotype_shape, err error) {
	if err = latents.check("latents"); err != nil {
		return shape, err
	}
	from := latents.shape()
	err = vae.run(context.Background(), chosen, func(model *C.calotype_model, o *C.calotype_run_options) C.calotype_status {
		return C.calotype_image_shape(model, &from, o, &shape)
	})
	return shape, err
}

// DecodeAll decodes a batch of latents to as many pictures.
func (vae *AutoencoderKL) DecodeAll(ctx context.Context, latents *Tensor, chosen ...Option) ([]image.Image, error) {
	shape, err := vae.imageShape(latents, chosen)
	if err != nil {
		return nil, err
	}
	from := latents.shape()
	pixels := make([]uint8, int(shape.batch*shape.height*shape.width*shape.channels))
	err = vae.run(ctx, chosen, func(model *C.calotype_model, o *C.calotype_run_options) C.calotype_status {
		return C.calotype_decode_u8(model, (*C.float)(&latents.Data[0]), &from,
			(*C.uint8_t)(&pixels[0]), C.size_t(len(pixels)), o)
	})
	if err != nil {
		return nil, err
	}
	return pictures(pixels, int(shape.batch), int(shape.height), int(shape.width), int(shape.channels)), nil
}

// Decode decodes the latents of one picture.
func (vae *AutoencoderKL) Decode(ctx context.Context, latents *Tensor, chosen ...Option) (image.Image, error) {
	if latents != nil && latents.Shape[0] != 1 {
		return nil, &Error{InvalidArgument, "Decode takes the latents of one picture; DecodeAll takes a batch"}
	}
	all, err := vae.DecodeAll(ctx, latents, chosen...)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// DecodeTensor decodes a batch of latents to what the network gives: [N, 3, H, W] in about [-1, 1],
// not clamped.
func (vae *AutoencoderKL) DecodeTensor(ctx context.Context, latents *Tensor, chosen ...Option) (*Tensor, error) {
	shape, err := vae.imageShape(latents, chosen)
	if err != nil {
		return nil, err
	}
	from := latents.shape()
	pixels := NewTensor(int(shape.batch), int(shape.channels), int(shape.height), int(shape.width))
	err = vae.run(ctx, chosen, func(model *C.calotype_model, o *C.calotype_run_options) C.calotype_status {
		o.image_layout = C.CALOTYPE_NCHW
		return C.calotype_decode(model, (*C.float)(&latents.Data[0]), &from,
			(*C.float)(&pixels.Data[0]), C.size_t(len(pixels.Data)), o)
	})
	if err != nil {
		return nil, err
	}
	return pixels, nil
}

func (vae *AutoencoderKL) latentsFor(shape *C.calotype_shape, chosen []Option) (*Tensor, error) {
	var to C.calotype_shape
	err := vae.run(context.Background(), chosen, func(model *C.calotype_model, o *C.calotype_run_options) C.calotype_status {
		return C.calotype_latents_shape(model, shape, o, &to)
	})
	if err != nil {
		return nil, err
	}
	return NewTensor(int(to.batch), int(to.channels), int(to.height), int(to.width)), nil
}

// Encode encodes a picture to latents, [1, C, H/f, W/f]. Sides that are no multiple of the factor are
// padded: the last row and column repeat. Alpha is composed over white.
func (vae *AutoencoderKL) Encode(ctx context.Context, picture image.Image, chosen ...Option) (*Tensor, error) {
	if picture == nil || picture.Bounds().Empty() {
		return nil, &Error{InvalidArgument, "the picture is nil or empty"}
	}
	size := picture.Bounds().Size()
	pixels := rgb(picture)
	shape := C.calotype_shape{batch: 1, height: C.int64_t(size.Y), width: C.int64_t(size.X), channels: 3}
	latents, err := vae.latentsFor(&shape, chosen)
	if err != nil {
		return nil, err
	}
	err = vae.run(ctx, chosen, func(model *C.calotype_model, o *C.calotype_run_options) C.calotype_status {
		return C.calotype_encode_u8(model, (*C.uint8_t)(&pixels[0]), &shape,
			(*C.float)(&latents.Data[0]), C.size_t(len(latents.Data)), o)
	})
	if err != nil {
		return nil, err
	}
	return latents, nil
}

// EncodeTensor encodes pictures [N, 3, H, W] in [-1, 1] to latents.
func (vae *AutoencoderKL) EncodeTensor(ctx context.Context, pixels *Tensor, chosen ...Option) (*Tensor, error) {
	if err := pixels.check("pictures"); err != nil {
		return nil, err
	}
	shape := pixels.shape()
	latents, err := vae.latentsFor(&shape, chosen)
	if err != nil {
		return nil, err
	}
	err = vae.run(ctx, chosen, func(model *C.calotype_model, o *C.calotype_run_options) C.calotype_status {
		o.image_layout = C.CALOTYPE_NCHW
		return C.calotype_encode(model, (*C.float)(&pixels.Data[0]), &shape,
			(*C.float)(&latents.Data[0]), C.size_t(len(latents.Data)), o)
	})
	if err != nil {
		return nil, err
	}
	return latents, nil
}
