/* cycles N [unmeasured]: loads, decodes and frees N times; resident memory must not grow, unless
   something else than the program (a sanitizer) makes it. */
#include <calotype/calotype.h>
#include <stdio.h>
#include <stdlib.h>

static long resident_kib(void) {
  FILE* status = fopen("/proc/self/status", "r");
  char line[256];
  long kib = -1;
  while (status != NULL && fgets(line, sizeof line, status) != NULL) {
    if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
  }
  if (status != NULL) fclose(status);
  return kib;
}

static int cycle(void) {
  enum { kSide = 2, kChannels = 16, kImage = kSide * 8 * kSide * 8 * 3 };
  static float latents[kSide * kSide * kChannels];
  static uint8_t pixels[kImage];
  const calotype_shape shape = {1, kSide, kSide, kChannels};
  calotype_model* model;
  calotype_model* missing;
  if (calotype_load(NULL, NULL, &model) != CALOTYPE_OK ||
      calotype_decode_u8(model, latents, &shape, pixels, kImage, NULL) != CALOTYPE_OK) {
    fprintf(stderr, "%s\n", calotype_last_error());
    return 0;
  }
  calotype_load("/nowhere", NULL, &missing); /* errors leave nothing behind either */
  calotype_free(model);
  return 1;
}

int main(int argc, char** argv) {
  const int cycles = argc > 1 ? atoi(argv[1]) : 1000;
  const int settle = cycles / 10; /* allocators and thread pools fill up first */
  long before = 0;
  for (int i = 0; i < cycles; i++) {
    if (i == settle) before = resident_kib();
    if (!cycle()) return 1;
  }
  const long after = resident_kib();
  printf("resident after %d cycles: %ld KiB, after %d: %ld KiB\n", settle, before, cycles, after);
  /* One byte a cycle cannot be seen; 4 KiB a cycle would be 3,600 KiB. */
  return argc <= 2 && after - before > 1024;
}
