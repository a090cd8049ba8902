package calotype

// #include <calotype/calotype.h>
// #include <stdlib.h>
import "C"

import (
	"image"
	"unsafe"
)

// pictures makes images of RGB (or grey) bytes, NHWC.
func pictures(pixels []uint8, batch, height, width, channels int) []image.Image {
	images := make([]image.Image, batch)
	for b := range images {
		picture := image.NewRGBA(image.Rect(0, 0, width, height))
		from := pixels[b*height*width*channels:]
		for p := 0; p < height*width; p++ {
			for c := 0; c < 3; c++ {
				picture.Pix[4*p+c] = from[p*channels+c%channels]
			}
			picture.Pix[4*p+3] = 255
		}
		images[b] = picture
	}
	return images
}

// rgb gives the bytes of a picture, NHWC, alpha over white.
func rgb(picture image.Image) []uint8 {
	bounds := picture.Bounds()
	pixels := make([]uint8, 0, 3*bounds.Dx()*bounds.Dy())
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			r, g, b, a := picture.At(x, y).RGBA() // premultiplied, 16 bits
			white := 0xffff - a
			for _, channel := range [3]uint32{r, g, b} {
				pixels = append(pixels, uint8((channel+white)*255/0xffff))
			}
		}
	}
	return pixels
}

// ReadLatents reads scaled latents from a .safetensors, .npy or ComfyUI .latent file.
func (vae *AutoencoderKL) ReadLatents(path string) (*Tensor, error) {
	cPath := C.CString(path)
	defer C.free(unsafe.Pointer(cPath))
	var values *C.float
	var shape C.calotype_shape
	err := vae.use(func(model *C.calotype_model) error {
		return call(func() C.calotype_status {
			return C.calotype_read_latents(model, cPath, &values, &shape)
		})
	})
	if err != nil {
		return nil, err
	}
	defer C.calotype_free_buffer(unsafe.Pointer(values))
	latents := NewTensor(int(shape.batch), int(shape.channels), int(shape.height), int(shape.width))
	copy(latents.Data, unsafe.Slice((*float32)(values), len(latents.Data)))
	return latents, nil
}
