// Preloaded: lets the allocations from number FAIL_FROM on fail, all of them or, with FAIL_COUNT,
// so many. Writes into the file FAIL_SAYS how many there were.
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

static atomic_long asked;
static long from = -1, count = -1;

__attribute__((constructor)) static void begin(void) {
  const char* text = getenv("FAIL_COUNT");
  count = text != NULL ? atol(text) : -1;
  text = getenv("FAIL_FROM");
  atomic_store(&asked, 0);
  from = text != NULL ? atol(text) : -1;
}

__attribute__((destructor)) static void end(void) {
  const long total = atomic_load(&asked);
  FILE* file = from < 0 ? fopen(getenv("FAIL_SAYS"), "w") : NULL;
  if (file == NULL) return;
  fprintf(file, "%ld\n", total);
  fclose(file);
}

static int fails(void) {
  const long number = atomic_fetch_add(&asked, 1);
  if (from < 0 || number < from || (count >= 0 && number >= from + count)) return 0;
  errno = ENOMEM;
  return 1;
}

void* malloc(size_t bytes) { return fails() ? NULL : __libc_malloc(bytes); }
void* calloc(size_t number, size_t bytes) { return fails() ? NULL : __libc_calloc(number, bytes); }
void* realloc(void* old, size_t bytes) { return fails() ? NULL : __libc_realloc(old, bytes); }
void* memalign(size_t alignment, size_t bytes) {
  return fails() ? NULL : __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  void* made = memalign(alignment, bytes);
  if (made == NULL) return ENOMEM;
  *memory = made;
  return 0;
}
