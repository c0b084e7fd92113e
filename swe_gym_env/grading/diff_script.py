"""The shell scripts that make the diff in the agent's sandbox, whatever the agent did there.

They are templates for ``str.format``, so braces of the shell are doubled; ``extract.py`` and
``rescue.py`` fill them in.
"""

from __future__ import annotations

# Folders that tools make as caches. They are not part of a change unless git tracks them.
CACHES = (
    *("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"),
    *(".tox", ".nox", "node_modules"),
)
# Caches that are left out without a report
SILENT = ("__pycache__", ".pytest_cache")
# Enter the working folder. The agent owns it and may have removed the permission for that.
ENTER = """
export LC_ALL=C
cd -P -- {workdir} 2>/dev/null || {{ chmod u+rwx -- {workdir} && cd -P -- {workdir}; }} || exit 3
"""
# Make files and folders readable that the agent made unreadable. find visits a folder before its
# content, so the content can be reached.
READABLE = r"""find . -path ./.git -prune -o -type d ! -perm -u=rwx -exec chmod u+rwx {{}} \; \
  -o -type f ! -perm -u=r -exec chmod u+rw {{}} \; """
# A scratch repository that reads the objects of the agent's repository. So the diff changes nothing
# in the agent's repository, and the agent's settings of git (hooks, filters, file monitors,
# external diffs, line ends) have no effect.
#
# The steps: set up the scratch repository and read the base commit into its index; look for nested
# repositories, virtual environments and files that are too large; add all files; write the diff to
# a file; print the random mark, the file's path and size; then list ignored files that the agent
# made.
#
# A repository inside the tree hides the files in its folder from git. If the base commit has files
# there, its .git is moved aside for the time of the diff; otherwise the folder is left out.
DIFF = (
    ENTER
    + r"""
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_NO_REPLACE_OBJECTS=1
scratch=$(mktemp -d) || exit 1
aside=()
finish() {{
  code=$?
  for name in "${{aside[@]}}"; do mv -- "$name.{mark}" "$name"; done
  rm -rf -- "$scratch/git"
  [ $code = 0 ] || rm -rf -- "$scratch"
  exit $code
}}
trap finish EXIT
set -e
[ -x .git ] || chmod u+rwx .git
own() {{ git -c safe.directory='*' "$@"; }}
git init -q --bare --template= "$scratch/git"
mkdir -p "$scratch/git/info"
export GIT_ALTERNATE_OBJECT_DIRECTORIES="$PWD/.git/objects"
base=$(git --git-dir="$scratch/git" rev-parse --verify -q {base}) || \
  base=$(own rev-parse --verify {base})
export GIT_DIR="$scratch/git" GIT_WORK_TREE="$PWD"
plain="git --literal-pathspecs -c core.autocrlf=false -c core.fileMode=true"
plain="$plain -c core.attributesFile=/dev/null"
$plain read-tree $base
exclude="$scratch/git/info/exclude"
cat .git/info/exclude > "$exclude" 2>/dev/null || true
printf '\n%s\n' {caches} '*.pyc' '*.{mark}' >> "$exclude"
leave_out() {{ printf '/%s\n' "$1" | sed 's/[][*?\\]/\\&/g' >> "$exclude"; }}
large=()
while IFS= read -r -d '' name; do
  name=${{name#./}} folder=.
  case "$name" in */*) folder=${{name%/*}};; esac
  if [ "${{name##*/}}" = .git ]; then
    case "$($plain ls-files -s -- "$folder")" in
      '') leave_out "$folder/";;
      160000*) ;;  # a submodule
      *) mv -- "$name" "$name.{mark}"; aside+=("$name");;
    esac
  elif [ "${{name##*/}}" != pyvenv.cfg ]; then large+=("$name")
  else
    if [ "$folder" != . ]; then
      [ -n "$($plain ls-files -- "$folder")" ] || leave_out "$folder/"
    elif [ -z "$($plain ls-files -- pyvenv.cfg)" ]; then
      printf '/%s\n' pyvenv.cfg bin/ include/ lib/ lib64 >> "$exclude"
    fi
  fi
done < <(find . -path ./.git -prune -o \
  \( -name .git -prune -o -name pyvenv.cfg -o -type f -size +{most_bytes}c \) -print0)
for name in "${{large[@]}}"; do
  [ -z "$($plain ls-files -- "$name")" ] && ! $plain check-ignore -q -- "$name" || continue
  printf '%s\0' '{mark}' large "$name" ''
  exit 0
done
unread=
$plain add -A . 2>/dev/null || {{
  {readable} 2>/dev/null || true
  $plain add -A . 2>"$scratch/errors" || {{
    {lenient} || {{ tail -n 1 "$scratch/errors"; exit 1; }}
    unread=$($plain add -A --ignore-errors . 2>&1) || true
  }}
}}
set +e
${{plain/--literal-pathspecs/}} diff --cached --binary --no-color --no-ext-diff --no-textconv \
  --no-renames $base -- . ':(exclude,glob)**/__pycache__/**' \
  ':(exclude,glob)**/.pytest_cache/**' ':(exclude)*.pyc' | head -c {most} > "$scratch/patch"
codes=("${{PIPESTATUS[@]}}")  # 141: git ended because head had read enough
[ ${{codes[1]}} = 0 ] && {{ [ ${{codes[0]}} = 0 ] || [ ${{codes[0]}} = 141 ]; }} || exit 1
printf '%s\0' '{mark}' "$scratch/patch" "$(wc -c < "$scratch/patch")" "${{unread:0:300}}"
[ -z '{since}' ] || $plain ls-files -z -o -i --exclude-standard --directory | {{
  listed=0
  while [ $listed -lt {most_listed} ] && IFS= read -r -d '' name; do
    case "/$name" in *.pyc|{silent}) continue;; esac
    new=$(find "./$name" -newerct '@{since}' ! -type d ! -name '*.pyc' -print -quit)
    [ -n "$new" ] || continue
    listed=$((listed + 1)) kind=ignored
    [ ! -e "./$name/pyvenv.cfg" ] || kind=venv
    [ ! -e "./$name/.git" ] || kind=repository
    printf '%s\0%s\0' $kind "$name"
  done
}}
exit 0
"""
)
# Print a word for why the diff failed (the keys of CAUSES in extract.py)
PROBE = (
    ENTER
    + """
[ -e .git ] || {{ echo removed; exit; }}
[ -x .git ] || chmod u+rwx .git
[ -d .git/objects ] || {{ echo replaced; exit; }}
probe=$(mktemp) && head -c 1000000 /dev/zero > "$probe" || echo full
rm -f -- "$probe"
"""
)
