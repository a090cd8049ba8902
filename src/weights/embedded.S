// The files of models/mini as they are: the folder is on the include path.
#if defined(__APPLE__)
#define SYMBOL(name) _##name
#define HIDDEN(name) .private_extern _##name
        .section __TEXT,__const
#else
#define SYMBOL(name) name
#define HIDDEN(name) .hidden name
        .section .rodata
#endif

#define FILE_BYTES(name, end_name, file) \
        .balign 64;                      \
        .globl SYMBOL(name);             \
        .globl SYMBOL(end_name);         \
        HIDDEN(name);                    \
        HIDDEN(end_name);                \
SYMBOL(name):                            \
        .incbin file;                    \
SYMBOL(end_name):

FILE_BYTES(calotype_embedded_config, calotype_embedded_config_end, "config.json")
FILE_BYTES(calotype_embedded_weights, calotype_embedded_weights_end,
           "diffusion_pytorch_model.safetensors")

#if defined(__ELF__)
        .section .note.GNU-stack,"",%progbits
#endif
