# fish completion for calotype

function __calotype_models
    calotype list --quiet 2>/dev/null
end

function __calotype_in
    __fish_seen_subcommand_from $argv
end

set -l commands encode decode roundtrip info convert list bench
set -l models encode decode roundtrip info convert bench
set -l computing encode decode roundtrip info bench

complete -c calotype -n "not __calotype_in $commands" -f
complete -c calotype -n "not __calotype_in $commands" -l version -d 'Print the version'
complete -c calotype -n "not __calotype_in $commands" -a encode -d 'Encode pictures to latents'
complete -c calotype -n "not __calotype_in $commands" -a decode -d 'Decode latents to pictures'
complete -c calotype -n "not __calotype_in $commands" -a roundtrip -d 'Encode and decode pictures'
complete -c calotype -n "not __calotype_in $commands" -a info -d 'Print a model'
complete -c calotype -n "not __calotype_in $commands" -a convert -d 'Write a model into another container'
complete -c calotype -n "not __calotype_in $commands" -a list -d 'List the models found'
complete -c calotype -n "not __calotype_in $commands" -a bench -d 'Measure times and memory'

complete -c calotype -s h -l help -d 'Print help'
complete -c calotype -n "__calotype_in $commands" -s q -l quiet -d 'Print errors only'
complete -c calotype -n "__calotype_in $commands" -l json -d 'Print the report as JSON'
complete -c calotype -n "__calotype_in $models" -s m -l model -r -a '(__calotype_models)' -d 'Which model'
complete -c calotype -n "__calotype_in $models" -l family -x -a 'flux sd1 sd2 sdxl sd3 flux2' -d 'Whose latent space the model has'
complete -c calotype -n "__calotype_in $models" -l verify -d 'Check digests'
complete -c calotype -n "__calotype_in $computing" -l backend -x -a 'auto cpu cuda reference' -d 'What computes'
complete -c calotype -n "__calotype_in $computing" -l device -x -d 'Which GPU'
complete -c calotype -n "__calotype_in $computing" -l precision -x -a 'f32 fast bf16 f16 fp8' -d 'Of the arithmetic'
complete -c calotype -n "__calotype_in $computing" -l threads -x -d 'How many'
complete -c calotype -n "__calotype_in $computing" -l memory -x -d 'Peak bytes'
complete -c calotype -n "__calotype_in $computing" -l scratch -r -d 'Where to spill'

complete -c calotype -n '__calotype_in encode decode roundtrip convert' -s o -l output -r -d 'Where the output goes'
complete -c calotype -n '__calotype_in encode decode roundtrip convert' -l force -d 'Overwrite what exists'
complete -c calotype -n '__calotype_in encode roundtrip' -l sample -d 'Draw from the posterior'
complete -c calotype -n '__calotype_in encode roundtrip' -l seed -x -d 'Of --sample'
complete -c calotype -n '__calotype_in encode roundtrip' -l resize -x -d 'Resize first: WxH'
complete -c calotype -n '__calotype_in encode roundtrip' -l background -x -a 'white black grey' -d 'Under transparent pixels'
complete -c calotype -n '__calotype_in encode' -l moments -d 'Write mean and logvar'
complete -c calotype -n '__calotype_in encode decode' -l unscaled -d 'Raw z'
complete -c calotype -n '__calotype_in encode decode' -l layout -x -a 'nchw nhwc' -d 'Of the latents'
complete -c calotype -n '__calotype_in encode' -l dtype -x -a 'f32 f16 bf16' -d 'Of the latents'
complete -c calotype -n '__calotype_in encode' -l format -x -a 'safetensors npy latent' -d 'Of the output'
complete -c calotype -n '__calotype_in decode roundtrip' -l format -x -a 'png jpeg webp npy safetensors' -d 'Of the output'
complete -c calotype -n '__calotype_in decode roundtrip' -l quality -x -d 'Of JPEG and WebP'
complete -c calotype -n '__calotype_in decode roundtrip' -l bit-depth -x -a '8 16' -d 'Of PNG'
complete -c calotype -n '__calotype_in decode info bench' -l size -x -d 'Of the picture: WxH'
complete -c calotype -n '__calotype_in roundtrip' -l compare -r -d 'Where the comparison goes'
complete -c calotype -n '__calotype_in roundtrip' -l amplify -x -d 'Of the difference'
complete -c calotype -n '__calotype_in convert' -l ollama -x -d 'Name in the Ollama store'
complete -c calotype -n '__calotype_in convert' -l keys -x -a 'diffusers original' -d 'Names of the tensors'
complete -c calotype -n '__calotype_in convert' -l dtype -x -a 'f32 f16 bf16 q8_0' -d 'Of the weights'
complete -c calotype -n '__calotype_in bench' -l runs -x -d 'How many'
complete -c calotype -n '__calotype_in bench' -l layers -d 'Print each layer'
complete -c calotype -n '__calotype_in bench' -l random -x -d 'Seed of random weights'
complete -c calotype -n '__calotype_in bench' -a 'decode encode' -f
