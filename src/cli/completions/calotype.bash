# bash completion for calotype

_calotype() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
  local commands="encode decode roundtrip info convert list bench"
  local model="--model --family --verify"
  local computing="--backend --device --precision --threads --memory --scratch"
  local report="--quiet --json --help"
  local command=${COMP_WORDS[1]} words
  compopt -o filenames 2>/dev/null

  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "$commands --help --version" -- "$cur"))
    return
  fi
  case $prev in
    --family) words="flux sd1 sd2 sdxl sd3 flux2" ;;
    --backend) words="auto cpu cuda reference" ;;
    --precision) words="f32 fast bf16 f16 fp8" ;;
    --layout) words="nchw nhwc" ;;
    --keys) words="diffusers original" ;;
    --bit-depth) words="8 16" ;;
    --background) words="white black grey" ;;
    --dtype)
      words="f32 f16 bf16"
      [[ $command == convert ]] && words+=" q8_0"
      ;;
    --format)
      words="png jpeg webp npy safetensors"
      [[ $command == encode ]] && words="safetensors npy latent"
      ;;
    --model | -m)
      COMPREPLY=($(compgen -W "$(calotype list --quiet 2>/dev/null)" -- "$cur")
        $(compgen -f -- "$cur"))
      return
      ;;
    --output | -o | --compare | --scratch)
      COMPREPLY=($(compgen -f -- "$cur"))
      return
      ;;
    --device | --threads | --memory | --runs | --random | --seed | --size | --resize | --quality | --amplify | --ollama)
      return
      ;;
  esac
  if [[ -n $words ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    return
  fi
  case $command in
    encode)
      words="--output --force --sample --seed --moments --unscaled --dtype --layout --format
             --resize --background $report $model $computing"
      ;;
    decode)
      words="--output --force --unscaled --layout --size --format --quality --bit-depth
             $report $model $computing"
      ;;
    roundtrip)
      words="--output --force --compare --amplify --sample --seed --resize --background --format
             --quality --bit-depth $report $model $computing"
      ;;
    info) words="--size $report $model $computing" ;;
    convert) words="--output --force --ollama --keys --dtype $report $model" ;;
    list) words="$report" ;;
    bench) words="--size --runs --layers --random $report $model $computing" ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  elif [[ $command == bench ]]; then
    COMPREPLY=($(compgen -W "decode encode" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}

complete -F _calotype calotype
