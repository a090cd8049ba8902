// Decode reads the autoencoder of a model in Ollama's store and decodes latents with it, until done or
// interrupted:
//
//	decode LATENTS PICTURE.png [MODEL]
//
// MODEL is a name of Ollama's, as `z-image`; without it the models of the store are listed and the
// embedded one is used.
package main

import (
	"context"
	"fmt"
	"image/png"
	"log"
	"os"
	"os/signal"

	"calotype"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: decode LATENTS PICTURE.png [MODEL]")
	}
	model := ""
	if len(os.Args) > 3 {
		model = os.Args[3]
	} else {
		list()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := decode(ctx, model, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func list() {
	models, err := calotype.List()
	if err != nil {
		log.Fatal(err)
	}
	for _, model := range models {
		if model.Container == "ollama" {
			log.Printf("in the store: %s (%s) %s", model.Name, model.Family, model.Problem)
		}
	}
}

func decode(ctx context.Context, model, latentsPath, picturePath string) error {
	vae, err := calotype.Load(model)
	if err != nil {
		return err
	}
	defer vae.Close()
	latents, err := vae.ReadLatents(latentsPath)
	if err != nil {
		return err
	}
	picture, err := vae.Decode(ctx, latents, calotype.Progress(func(fraction float64, layer string) bool {
		fmt.Fprintf(os.Stderr, "\r%3.0f %%", 100*fraction)
		return true
	}))
	if err != nil {
		return err
	}
	file, err := os.Create(picturePath)
	if err != nil {
		return err
	}
	if err := png.Encode(file, picture); err != nil {
		return err
	}
	return file.Close()
}
