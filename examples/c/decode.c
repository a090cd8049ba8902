/* Latents to a picture: decode LATENTS PICTURE [MODEL]
 *
 *   cc -std=c99 decode.c $(pkg-config --cflags --libs calotype) -o decode */
#include <calotype/calotype.h>
#include <stdio.h>
#include <stdlib.h>

static void check(calotype_status status) {
  if (status == CALOTYPE_OK) return;
  fprintf(stderr, "decode: %s\n", calotype_last_error());
  exit(1);
}

static int progress(double fraction, const char* layer, void* user) {
  (void)user;
  fprintf(stderr, "\r%3.0f %% %-60s", 100 * fraction, layer);
  return 0; /* go on */
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: decode LATENTS PICTURE [MODEL]\n");
    return 2;
  }
  calotype_model* model;
  check(calotype_load(argc > 3 ? argv[3] : NULL, NULL, &model));

  float* latents; /* a program that makes its own has them already: NCHW, as samplers give them */
  calotype_shape latents_shape, image_shape;
  check(calotype_read_latents(model, argv[1], &latents, &latents_shape));
  check(calotype_image_shape(model, &latents_shape, NULL, &image_shape));

  calotype_run_options options = calotype_run_options_defaults();
  options.progress = progress;
  const size_t picture = (size_t)(image_shape.height * image_shape.width * image_shape.channels);
  const size_t count = picture * (size_t)image_shape.batch;
  uint8_t* pixels = malloc(count);
  if (pixels == NULL) return 1;
  check(calotype_decode_u8(model, latents, &latents_shape, pixels, count, &options));
  fprintf(stderr, "\n");

  image_shape.batch = 1; /* the first one */
  check(calotype_write_image(argv[2], pixels, &image_shape, 0));
  free(pixels);
  calotype_free_buffer(latents);
  calotype_free(model);
  return 0;
}
