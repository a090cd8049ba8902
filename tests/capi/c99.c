/* Every function of calotype.h from a C99 program: c99 FOLDER, where it may write. */
#include <calotype/calotype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPECT(condition)                                                                          \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, #condition, \
              calotype_last_error());                                                              \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)
#define OK(call) EXPECT((call) == CALOTYPE_OK)

enum { kSide = 3, kMaxFactor = 8, kImage = 3 * kSide * kMaxFactor * kSide * kMaxFactor };

static int count_calls(double fraction, const char* layer, void* user) {
  EXPECT(fraction >= 0 && fraction <= 1 && layer != NULL);
  ++*(int*)user;
  return 0;
}

static void versions(void) {
  EXPECT(calotype_abi_version() == CALOTYPE_ABI_VERSION);
  EXPECT(strlen(calotype_version()) >= 5);
  EXPECT(strcmp(calotype_status_name(CALOTYPE_IO), "input or output error") == 0);
  EXPECT(strcmp(calotype_last_error(), "") == 0);
}

static void models(void) {
  calotype_model_entry* entries;
  size_t count;
  OK(calotype_list_models(&entries, &count));
  EXPECT(count >= 1 && strcmp(entries[0].container, "embedded") == 0 && entries[0].bytes > 0);
  calotype_free_list(entries);
}

static void metadata(const calotype_model* model, calotype_info* info) {
  *info = calotype_info_defaults();
  OK(calotype_get_info(model, info));
  EXPECT(info->has_encoder && info->has_decoder && info->channels == 16 && info->factor == 8);
  EXPECT(info->image_channels == 3 && info->decoder_parameters > 1000000);
  EXPECT(strstr(calotype_config_json(model), "\"latent_channels\": 16") != NULL);
  EXPECT(strcmp(calotype_model_source(model), "embedded") == 0);
  EXPECT(strcmp(calotype_model_family(model), "custom") == 0);
}

/* Encodes a picture, decodes it in both forms, and goes through a file. */
static void jobs(const calotype_model* model, const char* folder) {
  uint8_t pixels[kImage], decoded[kImage];
  for (int i = 0; i < kImage; i++) pixels[i] = (uint8_t)(i / 3 * 7 % 256);
  const calotype_shape image = {1, kSide * 8, kSide * 8, 3};
  calotype_shape latents_shape, again;
  OK(calotype_latents_shape(model, &image, NULL, &latents_shape));
  EXPECT(latents_shape.height == kSide && latents_shape.channels == 16);
  float latents[kSide * kSide * 16], sampled[kSide * kSide * 16];
  const size_t count = kSide * kSide * 16;
  calotype_run_options options = calotype_run_options_defaults();
  int calls = 0;
  options.progress = count_calls;
  options.user = &calls;
  OK(calotype_encode_u8(model, pixels, &image, latents, count, &options));
  EXPECT(calls > 0);
  options.sample = 1;
  options.seed = 7;
  OK(calotype_encode_u8(model, pixels, &image, sampled, count, &options));
  EXPECT(memcmp(latents, sampled, sizeof latents) != 0);

  OK(calotype_image_shape(model, &latents_shape, NULL, &again));
  EXPECT(memcmp(&again, &image, sizeof image) == 0);
  float values[kImage];
  OK(calotype_decode(model, latents, &latents_shape, values, kImage, NULL));
  OK(calotype_decode_u8(model, latents, &latents_shape, decoded, kImage, NULL));
  for (int i = 0; i < kImage; i++) {
    const double clamped = fmin(fmax(values[i] / 2.0 + 0.5, 0), 1);
    EXPECT(fabs(clamped * 255 - decoded[i]) < 0.501);
  }

  float again_f[kImage], mean[kSide * kSide * 16], logvar[kSide * kSide * 16];
  for (int i = 0; i < kImage; i++) again_f[i] = (float)pixels[i] / 127.5f - 1;
  OK(calotype_encode(model, again_f, &image, sampled, count, NULL));
  for (size_t i = 0; i < count; i++) EXPECT(fabsf(sampled[i] - latents[i]) < 1e-4f);
  OK(calotype_encode_moments(model, again_f, &image, mean, logvar, count, NULL));
  EXPECT(logvar[0] >= -30 && logvar[0] <= 20);

  char path[4096];
  snprintf(path, sizeof path, "%s/c99.png", folder);
  OK(calotype_write_image(path, decoded, &image, 0));
  uint8_t* read;
  OK(calotype_read_image(path, &read, &again));
  EXPECT(memcmp(&again, &image, sizeof image) == 0 && memcmp(read, decoded, kImage) == 0);
  calotype_free_buffer(read);
}

static void plans(const calotype_model* model) {
  const calotype_shape image = {1, 512, 512, 3};
  calotype_plan decode = calotype_plan_defaults(), encode = calotype_plan_defaults();
  OK(calotype_plan_decode(model, &image, NULL, &decode));
  OK(calotype_plan_encode(model, &image, NULL, &encode));
  EXPECT(decode.flop > 1e9 && decode.peak_bytes > 512 * 512 * 3 * 4);
  EXPECT(encode.flop > 1e9 && encode.peak_bytes > 512 * 512 * 3 * 4);
}

static void errors(const calotype_model* model) {
  calotype_model* none = (calotype_model*)model;
  EXPECT(calotype_load("/nowhere/at/all", NULL, &none) == CALOTYPE_NOT_FOUND);
  EXPECT(none == NULL && strstr(calotype_last_error(), "/nowhere/at/all") != NULL);
  float* latents;
  calotype_shape shape;
  EXPECT(calotype_read_latents(model, "/nowhere.npy", &latents, &shape) != CALOTYPE_OK);
  const calotype_tensor tensor = {"decoder.conv_in.weight", "F7", 0, NULL, NULL};
  EXPECT(calotype_load_tensors(NULL, &tensor, 1, NULL, &none) == CALOTYPE_UNSUPPORTED);
}

int main(int argc, char** argv) {
  EXPECT(argc == 2);
  versions();
  models();
  calotype_model* model;
  OK(calotype_load(NULL, NULL, &model));
  calotype_info info;
  metadata(model, &info);
  jobs(model, argv[1]);
  plans(model);
  errors(model);
  calotype_free(model);
  calotype_free(NULL);
  return 0;
}
