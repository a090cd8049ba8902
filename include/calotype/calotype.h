/* The C interface of Calotype: the KL autoencoder of latent diffusion models.
 *
 *   calotype_model* model;
 *   calotype_load(NULL, NULL, &model);  // the embedded model
 *   calotype_image_shape(model, &latents_shape, NULL, &image_shape);
 *   calotype_decode_u8(model, latents, &latents_shape, pixels, count, NULL);
 *   calotype_write_image("out.png", pixels, &image_shape, 0);
 *   calotype_free(model);
 *
 * Every function that can fail returns a status; calotype_last_error() then has one full sentence
 * about it. A NULL where a pointer is needed is CALOTYPE_INVALID_ARGUMENT, never a crash. A model
 * may be used from several threads at once. No C++ exception leaves the library.
 *
 * Structs that may grow begin with `struct_size`, which says how much of them the caller knows:
 * the *_defaults() functions set it. Fields that a caller does not know have their defaults; a
 * caller that sets fields which the library does not know is refused (CALOTYPE_UNSUPPORTED). */
#ifndef CALOTYPE_CALOTYPE_H_
#define CALOTYPE_CALOTYPE_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "calotype/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Grows by one where something that was here changes or goes; additions leave it alone. */
#define CALOTYPE_ABI_VERSION 1

/* CALOTYPE_ABI_VERSION of the library that runs. */
CALOTYPE_API uint32_t calotype_abi_version(void);
/* "0.1.0"; static. */
CALOTYPE_API const char* calotype_version(void);

typedef enum calotype_status {
  CALOTYPE_OK = 0,
  CALOTYPE_INVALID_ARGUMENT = 1, /* the caller asked for something that makes no sense */
  CALOTYPE_NOT_FOUND = 2,        /* a file, model or device that is not there */
  CALOTYPE_INVALID_DATA = 3,     /* a file or buffer that cannot be what it claims to be */
  CALOTYPE_UNSUPPORTED = 4,      /* well-formed, but nothing here implements it */
  CALOTYPE_IO = 5,               /* the operating system refused to read or write */
  CALOTYPE_OUT_OF_MEMORY = 6,    /* a memory budget or the machine is too small */
  CALOTYPE_CANCELLED = 7,        /* the progress callback said stop */
  CALOTYPE_INTERNAL = 8          /* a fault of Calotype's own */
} calotype_status;

/* The sentence of this thread's last failure, "" before the first. Valid until this thread's next
 * failure. */
CALOTYPE_API const char* calotype_last_error(void);
/* "invalid argument", …; static. */
CALOTYPE_API const char* calotype_status_name(calotype_status status);

/* ---- Models ---- */

typedef struct calotype_model calotype_model;

typedef struct calotype_load_options {
  size_t struct_size;
  const char* family; /* "flux", "sd1", "sd2", "sdxl", "sd3", "flux2": whose latent space it has,
                         whatever its config says; NULL: as the config says, else inferred */
  int32_t verify;     /* not 0: check digests where the container has them */
} calotype_load_options;

/* `name`: NULL or "" for the embedded model; else a path (a diffusers folder, its parent, a
 * .safetensors or .gguf file, an Ollama manifest), a Hugging Face repo id in the local cache, or
 * an Ollama name. `options` may be NULL. Free the model with calotype_free. */
CALOTYPE_API calotype_status calotype_load(const char* name, const calotype_load_options* options,
                                           calotype_model** model);

/* A tensor that something else owns: dense, row-major. */
typedef struct calotype_tensor {
  const char* name;  /* diffusers or original (LDM, BFL) name, bare or under "vae." */
  const char* dtype; /* as safetensors spells it: "F32", "F16", "BF16", "F64", "F8_E4M3", … */
  int32_t rank;
  const int64_t* shape;
  const void* data;
} calotype_tensor;

/* A model from weights in memory, which must stay unchanged until the model is freed.
 * `config_json`: the text of a diffusers config.json, or NULL to infer it. */
CALOTYPE_API calotype_status calotype_load_tensors(const char* config_json,
                                                   const calotype_tensor* tensors, size_t count,
                                                   const calotype_load_options* options,
                                                   calotype_model** model);

/* Frees the model; NULL is allowed. Nothing may be using it. */
CALOTYPE_API void calotype_free(calotype_model* model);

typedef struct calotype_info {
  size_t struct_size;
  int32_t has_encoder, has_decoder;
  int32_t config_inferred; /* not 0: the source had no config */
  int64_t channels;        /* of scaled latents */
  int64_t factor;          /* picture pixels per latent pixel */
  int64_t z_channels;      /* of raw z: as `channels`, but for FLUX.2, whose latents are patches */
  int64_t z_factor;
  int64_t image_channels;
  int64_t encoder_parameters, decoder_parameters;
  double scaling_factor, shift_factor; /* shift 0 where the config has none */
} calotype_info;

CALOTYPE_API calotype_status calotype_get_info(const calotype_model* model, calotype_info* info);

/* Strings of a model; valid until it is freed. NULL for a NULL model. */
CALOTYPE_API const char* calotype_config_json(
    const calotype_model* model); /* as diffusers writes it */
CALOTYPE_API const char* calotype_model_source(
    const calotype_model* model); /* "embedded", paths, … */
CALOTYPE_API const char* calotype_model_family(
    const calotype_model* model); /* "flux", …, "custom" */

typedef struct calotype_model_entry {
  const char* name;      /* what calotype_load takes; "" for the embedded model */
  const char* container; /* "embedded", "ollama", "hub" */
  const char* path;
  const char* family;  /* "" where it could not be read: */
  const char* problem; /* why */
  int64_t bytes;
} calotype_model_entry;

/* The embedded model, and the models of the Ollama store and the Hugging Face cache that have an
 * autoencoder: an array of `*count`, to be freed with calotype_free_list. */
CALOTYPE_API calotype_status calotype_list_models(calotype_model_entry** entries, size_t* count);
CALOTYPE_API void calotype_free_list(calotype_model_entry* entries);

/* ---- Jobs ---- */

typedef enum calotype_backend {
  CALOTYPE_BACKEND_AUTO = 0, /* an NVIDIA GPU where there is one that can be used, else the CPU */
  CALOTYPE_CPU = 1,
  CALOTYPE_CUDA = 2,
  CALOTYPE_REFERENCE = 3 /* float64 in plain loops: slow */
} calotype_backend;

typedef enum calotype_precision {
  CALOTYPE_PRECISION_AUTO = 0, /* float32 on the CPU, bf16 on a GPU */
  CALOTYPE_F32 = 1,
  CALOTYPE_FAST = 2, /* CPU: float32 with faster, less exact convolutions */
  CALOTYPE_BF16 = 3, /* bf16 products, float32 sums, where the machine has them */
  CALOTYPE_F16 = 4,  /* GPU: f16 products, float32 sums */
  CALOTYPE_FP8 = 5   /* GPU, sm_90: e4m3 products in the 3x3 convolutions, bf16 in the rest */
} calotype_precision;

typedef enum calotype_layout {
  CALOTYPE_LAYOUT_DEFAULT = 0, /* latents NCHW, pictures NHWC */
  CALOTYPE_NCHW = 1,
  CALOTYPE_NHWC = 2
} calotype_layout;

/* Called from the thread that runs the job, several times a second, with the fraction done (0 to 1,
 * never falling) and the layer at work. 0: go on; anything else cancels the job, which then returns
 * CALOTYPE_CANCELLED. */
typedef int (*calotype_progress)(double fraction, const char* layer, void* user);

typedef struct calotype_run_options {
  size_t struct_size;
  int32_t backend;       /* calotype_backend */
  int32_t precision;     /* calotype_precision */
  int32_t threads;       /* 0: as many as the process may use */
  int32_t unscaled;      /* not 0: latents are raw z, as the decoder takes them */
  int32_t latent_layout; /* calotype_layout */
  int32_t image_layout;  /* calotype_layout */
  int32_t sample;        /* encode: not 0 draws from the posterior instead of taking its mode */
  int32_t device;        /* which GPU */
  uint64_t seed;         /* of `sample`: the same noise on every machine */
  int64_t memory;        /* peak bytes of the job; 0: CALOTYPE_MEMORY, else what is free allows */
  const char* scratch;   /* folder for what exceeds `memory`; NULL: $TMPDIR, else /var/tmp */
  calotype_progress progress; /* or NULL */
  void* user;                 /* handed to progress */
} calotype_run_options;

/* Sides of a batch, whatever its layout. */
typedef struct calotype_shape {
  int64_t batch, height, width, channels;
} calotype_shape;

/* The pictures that latents of a shape decode to, and the latents that pictures of a shape encode
 * to. Sides of pictures that are no multiple of the model's factor are rounded up: encoding repeats
 * the last row and column. `options` says whether latents are raw z, and may be NULL. */
CALOTYPE_API calotype_status calotype_image_shape(const calotype_model* model,
                                                  const calotype_shape* latents,
                                                  const calotype_run_options* options,
                                                  calotype_shape* image);
CALOTYPE_API calotype_status calotype_latents_shape(const calotype_model* model,
                                                    const calotype_shape* image,
                                                    const calotype_run_options* options,
                                                    calotype_shape* latents);

/* Latents to pictures. `count`: elements that `image` has room for, exactly those of the shape that
 * calotype_image_shape says. float: about [-1, 1], not clamped. u8: round(255 clamp(y / 2 + 0.5)).
 * Where a job fails or is cancelled, `image` is untouched. `options` may be NULL. */
CALOTYPE_API calotype_status calotype_decode(const calotype_model* model, const float* latents,
                                             const calotype_shape* latents_shape, float* image,
                                             size_t count, const calotype_run_options* options);
CALOTYPE_API calotype_status calotype_decode_u8(const calotype_model* model, const float* latents,
                                                const calotype_shape* latents_shape, uint8_t* image,
                                                size_t count, const calotype_run_options* options);

/* Pictures (float: [-1, 1]; u8: 0 to 255) to latents, `count` elements as calotype_latents_shape
 * says. */
CALOTYPE_API calotype_status calotype_encode(const calotype_model* model, const float* image,
                                             const calotype_shape* image_shape, float* latents,
                                             size_t count, const calotype_run_options* options);
CALOTYPE_API calotype_status calotype_encode_u8(const calotype_model* model, const uint8_t* image,
                                                const calotype_shape* image_shape, float* latents,
                                                size_t count, const calotype_run_options* options);
/* The posterior of raw z: mean and logvar (clamped to [-30, 20]), `count` elements each, of the
 * shape that calotype_latents_shape says with `unscaled`. */
CALOTYPE_API calotype_status calotype_encode_moments(const calotype_model* model,
                                                     const float* image,
                                                     const calotype_shape* image_shape, float* mean,
                                                     float* logvar, size_t count,
                                                     const calotype_run_options* options);

typedef struct calotype_plan {
  size_t struct_size;
  double flop;           /* of the direct algorithm: 2 * multiply-adds */
  int64_t peak_bytes;    /* all that calotype_run_options.memory counts */
  int64_t minimum_bytes; /* the smallest calotype_run_options.memory that works */
  double seconds;        /* expected */
} calotype_plan;

/* What decoding to, or encoding from, pictures of a shape will take. */
CALOTYPE_API calotype_status calotype_plan_decode(const calotype_model* model,
                                                  const calotype_shape* image,
                                                  const calotype_run_options* options,
                                                  calotype_plan* plan);
CALOTYPE_API calotype_status calotype_plan_encode(const calotype_model* model,
                                                  const calotype_shape* image,
                                                  const calotype_run_options* options,
                                                  calotype_plan* plan);

/* ---- Files ---- */

/* RGB, NHWC, batch 1, to .png, .jpg or .webp: the file appears whole or not at all. `quality`: 1 to
 * 100 for JPEG and WebP, 0: 95. */
CALOTYPE_API calotype_status calotype_write_image(const char* path, const uint8_t* pixels,
                                                  const calotype_shape* shape, int32_t quality);
/* A PNG, JPEG or WebP file as upright sRGB, NHWC; free `*pixels` with calotype_free_buffer. */
CALOTYPE_API calotype_status calotype_read_image(const char* path, uint8_t** pixels,
                                                 calotype_shape* shape);
/* Scaled latents, NCHW, from .safetensors, .npy or .latent; free `*latents` with
 * calotype_free_buffer. */
CALOTYPE_API calotype_status calotype_read_latents(const calotype_model* model, const char* path,
                                                   float** latents, calotype_shape* shape);
CALOTYPE_API void calotype_free_buffer(void* buffer);

#ifdef __cplusplus
} /* extern "C" */
#endif

/* Structs with their defaults, of the size that this header knows. */
static inline calotype_load_options calotype_load_options_defaults(void) {
  calotype_load_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}
static inline calotype_run_options calotype_run_options_defaults(void) {
  calotype_run_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}
static inline calotype_info calotype_info_defaults(void) {
  calotype_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  return info;
}
static inline calotype_plan calotype_plan_defaults(void) {
  calotype_plan plan;
  memset(&plan, 0, sizeof plan);
  plan.struct_size = sizeof plan;
  return plan;
}

#endif /* CALOTYPE_CALOTYPE_H_ */
