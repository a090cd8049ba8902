package calotype

import (
	"context"
	"errors"
	"image"
	"image/color"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func load(t testing.TB) *AutoencoderKL {
	t.Helper()
	vae, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vae.Close() })
	return vae
}

func someLatents(batch, height, width int) *Tensor {
	latents := NewTensor(batch, 16, height, width)
	for i := range latents.Data {
		latents.Data[i] = float32(i%13)/6 - 1
	}
	return latents
}

func gradient(width, height int) image.Image {
	picture := image.NewNRGBA(image.Rect(3, 5, 3+width, 5+height))
	for y := 0; y < height; y++ {
		for x := 0; x < width; x++ {
			picture.Set(3+x, 5+y, color.NRGBA{uint8(255 * x / width), uint8(255 * y / height), 128, 255})
		}
	}
	return picture
}

func TestInfoSaysWhatTheModelIs(t *testing.T) {
	info := load(t).Info()
	if !info.HasDecoder || !info.HasEncoder || info.Channels != 16 || info.Factor != 8 {
		t.Errorf("%+v", info)
	}
	if info.Source != "embedded" || !strings.Contains(info.ConfigJSON, "block_out_channels") {
		t.Errorf("%+v", info)
	}
	var config struct {
		LatentChannels int `json:"latent_channels"`
	}
	if err := load(t).Config(&config); err != nil || config.LatentChannels != 16 {
		t.Error(config, err)
	}
	models, err := List()
	if err != nil || len(models) == 0 || models[0].Container != "embedded" {
		t.Error(models, err)
	}
	if Version() == "" {
		t.Error("no version")
	}
}

func TestPicturesRoundTrip(t *testing.T) {
	vae, ctx := load(t), context.Background()
	picture := gradient(64, 48)
	latents, err := vae.Encode(ctx, picture)
	if err != nil {
		t.Fatal(err)
	}
	if latents.Shape != [4]int{1, 16, 6, 8} {
		t.Fatal(latents.Shape)
	}
	back, err := vae.Decode(ctx, latents)
	if err != nil {
		t.Fatal(err)
	}
	if back.Bounds() != image.Rect(0, 0, 64, 48) {
		t.Fatal(back.Bounds())
	}
	var sum, count float64
	for y := 0; y < 48; y++ {
		for x := 0; x < 64; x++ {
			r1, g1, b1, _ := picture.At(3+x, 5+y).RGBA()
			r2, g2, b2, _ := back.At(x, y).RGBA()
			for _, d := range [3]float64{float64(r1) - float64(r2), float64(g1) - float64(g2), float64(b1) - float64(b2)} {
				sum += d * d
				count++
			}
		}
	}
	if rms := math.Sqrt(sum/count) / 65535; rms > 0.06 {
		t.Errorf("the round trip is off by %.3f", rms)
	}
}

func TestTensorsAndPicturesAgree(t *testing.T) {
	vae, ctx := load(t), context.Background()
	latents := someLatents(2, 3, 2)
	pixels, err := vae.DecodeTensor(ctx, latents, Threads(1))
	if err != nil {
		t.Fatal(err)
	}
	images, err := vae.DecodeAll(ctx, latents)
	if err != nil || len(images) != 2 {
		t.Fatal(err)
	}
	if pixels.Shape != [4]int{2, 3, 24, 16} {
		t.Fatal(pixels.Shape)
	}
	picture := images[1].(*image.RGBA)
	for c := 0; c < 3; c++ {
		for p := 0; p < 24*16; p++ {
			want := math.Min(math.Max(float64(pixels.Data[(3+c)*24*16+p])/2+0.5, 0), 1) * 255
			if got := float64(picture.Pix[4*p+c]); math.Abs(got-want) > 0.501 {
				t.Fatalf("channel %d, pixel %d: %v, not %v", c, p, got, want)
			}
		}
	}
	raw, err := vae.DecodeTensor(ctx, latents, Unscaled())
	if err != nil || raw.Data[0] == pixels.Data[0] {
		t.Error("raw z decodes as scaled latents do", err)
	}
}

func TestSamplesFollowTheirSeed(t *testing.T) {
	vae, ctx := load(t), context.Background()
	encode := func(options ...Option) float32 {
		latents, err := vae.Encode(ctx, gradient(16, 16), options...)
		if err != nil {
			t.Fatal(err)
		}
		return latents.Data[7]
	}
	if encode(Sample(1)) != encode(Sample(1)) || encode(Sample(1)) == encode(Sample(2)) || encode() == encode(Sample(1)) {
		t.Error("samples do not follow their seed")
	}
}

func TestAPictureOfTransparentPixelsIsWhite(t *testing.T) {
	for _, v := range rgb(image.NewNRGBA(image.Rect(0, 0, 2, 2))) {
		if v != 255 {
			t.Fatal(v)
		}
	}
}

func TestContextEndsAJob(t *testing.T) {
	vae := load(t)
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	start := time.Now()
	_, err := vae.Decode(ctx, someLatents(1, 64, 64), Progress(func(fraction float64, layer string) bool {
		if calls++; calls == 2 {
			cancel()
		}
		return true
	}))
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	start = time.Now()
	_, err = vae.Decode(ctx, someLatents(1, 128, 128))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if waited := time.Since(start); waited > 3*time.Second {
		t.Errorf("the job went on for %v", waited)
	}
	if _, err := vae.Decode(ctx, someLatents(1, 2, 2)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("a context that has ended lets a job begin:", err)
	}
}

func TestProgressCancelsAndPanicsPassThrough(t *testing.T) {
	vae, ctx := load(t), context.Background()
	_, err := vae.Decode(ctx, someLatents(1, 4, 4), Progress(func(float64, string) bool { return false }))
	if !errors.Is(err, Cancelled) {
		t.Error(err)
	}
	defer func() {
		if reason := recover(); reason != "a fault of the caller's" {
			t.Error(reason)
		}
		if _, err := vae.Decode(ctx, someLatents(1, 2, 2)); err != nil {
			t.Error("the model does not work after a panic:", err)
		}
	}()
	vae.Decode(ctx, someLatents(1, 4, 4), Progress(func(float64, string) bool { panic("a fault of the caller's") }))
}

func TestErrorsHaveCodesAndSentences(t *testing.T) {
	vae, ctx := load(t), context.Background()
	_, err := Load("/nowhere/at/all")
	var failure *Error
	if !errors.Is(err, NotFound) || !errors.As(err, &failure) || !strings.Contains(failure.Message, "/nowhere/at/all") {
		t.Error(err)
	}
	if _, err := Load("", Family("unheard-of")); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.Decode(ctx, NewTensor(1, 4, 2, 2)); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.Decode(ctx, nil); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.Decode(ctx, &Tensor{Shape: [4]int{1, 16, 2, 2}, Data: make([]float32, 3)}); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.Decode(ctx, &Tensor{Shape: [4]int{1, 16, 0, 2}}); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.Decode(ctx, someLatents(2, 2, 2)); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.Encode(ctx, nil); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.Decode(ctx, someLatents(1, 2, 2), Threads(-1)); !errors.Is(err, InvalidArgument) {
		t.Error(err)
	}
	if _, err := vae.ReadLatents("/nowhere.npy"); err == nil {
		t.Error("read a file that is not there")
	}
}

func TestAClosedModelSaysSo(t *testing.T) {
	vae := load(t)
	if err := vae.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := vae.Decode(context.Background(), someLatents(1, 2, 2)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := vae.Close(); err != nil {
		t.Error(err)
	}
}

// within fails where `work` takes longer than any machine needs for it: it hangs.
func within(t *testing.T, work func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it hangs")
	}
}

func TestProgressMayCloseTheModel(t *testing.T) {
	vae, open := load(t), atomic.LoadInt64(&openModels)
	within(t, func() {
		picture, err := vae.Decode(context.Background(), someLatents(1, 8, 8), Progress(func(float64, string) bool {
			vae.Close()
			if atomic.LoadInt64(&openModels) != open {
				t.Error("the model was freed under its job")
			}
			return true
		}))
		if err != nil || picture == nil {
			t.Error("the job that ran was not finished:", err)
		}
	})
	if atomic.LoadInt64(&openModels) != open-1 {
		t.Error("the last job did not free the model")
	}
	if _, err := vae.Decode(context.Background(), someLatents(1, 2, 2)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestProgressMayUseAModelThatIsBeingClosed(t *testing.T) {
	vae := load(t)
	within(t, func() {
		first := true
		_, err := vae.Decode(context.Background(), someLatents(1, 8, 8), Progress(func(float64, string) bool {
			if !first {
				return true
			}
			first = false
			if _, err := vae.Decode(context.Background(), someLatents(1, 2, 2)); err != nil {
				t.Error("a job inside a job:", err)
			}
			closed := make(chan struct{})
			go func() {
				vae.Close()
				close(closed)
			}()
			<-closed
			if _, err := vae.Decode(context.Background(), someLatents(1, 2, 2)); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			return true
		}))
		if err != nil {
			t.Error(err)
		}
	})
}

func TestGoroutinesShareAModelAndClosingLetsThemFinish(t *testing.T) {
	vae := load(t)
	want, err := vae.DecodeTensor(context.Background(), someLatents(1, 4, 4))
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			got, err := vae.DecodeTensor(context.Background(), someLatents(1, 4, 4), Threads(1))
			if errors.Is(err, ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			for i := range want.Data {
				if got.Data[i] != want.Data[i] {
					t.Error("goroutines got different pictures")
					return
				}
			}
		}()
	}
	time.Sleep(5 * time.Millisecond)
	vae.Close()
	group.Wait()
}

// residentKiB is the memory of this process that is in use.
func residentKiB(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages := 0
	for _, c := range strings.Fields(string(text))[1] {
		pages = 10*pages + int(c-'0')
	}
	return pages * os.Getpagesize() / 1024
}

// Set where a sanitizer keeps memory of its own.
var instrumented bool

func TestAThousandCyclesLeaveMemoryFlat(t *testing.T) {
	if instrumented {
		t.Skip("a sanitizer's memory is no measure")
	}
	cycle := func() {
		vae, err := Load("")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vae.Decode(context.Background(), someLatents(1, 1, 1), Threads(1)); err != nil {
			t.Fatal(err)
		}
		vae.Close()
	}
	before := 0
	for i := 0; i < 1000; i++ {
		if i == 200 {
			runtime.GC()
			before = residentKiB(t)
		}
		cycle()
	}
	runtime.GC()
	after := residentKiB(t)
	t.Logf("resident after 200 cycles: %d KiB, after 1000: %d KiB", before, after)
	if after-before > 4096 {
		t.Errorf("memory grew from %d KiB to %d KiB", before, after)
	}
}

func TestTheGarbageCollectorFreesModels(t *testing.T) {
	before := atomic.LoadInt64(&openModels)
	for i := 0; i < 10; i++ {
		if _, err := Load(""); err != nil {
			t.Fatal(err)
		}
	}
	if atomic.LoadInt64(&openModels) < before+1 {
		t.Fatal("nothing was loaded")
	}
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		if atomic.LoadInt64(&openModels) <= before {
			return
		}
	}
	t.Errorf("%d models were not collected", atomic.LoadInt64(&openModels)-before)
}
