# Sourced by ./dev: cross-builds for x86_64-pc-windows-gnu, runs the unit tests under Wine, and drives
# the gateway there.
#
# Compiler: the rustup toolchain where it has the Windows target, else Debian's rustc-web, the only
# one at hand there whose library sources match it; std is then built from those, once.

# shellcheck source=tests/windows/gateway.sh
source "$ROOT/tests/windows/gateway.sh"

WINDOWS_TARGET=x86_64-pc-windows-gnu
WINDOWS_CACHE=$CACHE/windows

windows() {
  local only_build="" if_possible=""
  while [ $# -gt 0 ]; do
    case $1 in
      build) only_build=yes ;;
      --if-possible) if_possible=yes ;;
      *) fail "./dev windows knows \"build\" and \"--if-possible\", not \"$1\"" ;;
    esac
    shift
  done
  if ! windows_obstacle; then
    [ -n "$if_possible" ] || fail "cannot build for Windows here: $obstacle"
    say "NOT BUILT for Windows: $obstacle"
    return
  fi
  mkdir -p "$WINDOWS_CACHE"
  windows_compiler
  windows_build
  [ -z "$only_build" ] || return 0
  windows_unit_tests
  need curl:curl
  windows_gateway
}

# Says in $obstacle what stands in the way, if anything does.
windows_obstacle() {
  obstacle=""
  if [ "$(uname -m)" != x86_64 ]; then
    obstacle="the recipe is for x86_64 machines"
  elif ! windows_has_rustup_target && ! windows_has_debian_compiler; then
    obstacle="no compiler; rustup target add $WINDOWS_TARGET, or Debian's rustc-web package, gives one"
  elif ! command -v apt-get >/dev/null && ! command -v x86_64-w64-mingw32-gcc >/dev/null; then
    obstacle="no x86_64-w64-mingw32-gcc (MinGW-w64)"
  fi
  [ -z "$obstacle" ]
}

windows_has_rustup_target() {
  [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$WINDOWS_TARGET/lib" ]
}

windows_has_debian_compiler() {
  [ -x /usr/bin/rustc ] && [ -d /usr/src/rustc-"$(/usr/bin/rustc -V | cut -d' ' -f2)" ] && return
  command -v apt-cache >/dev/null || return 1
  apt-cache show rustc-web rust-web-src >/dev/null 2>&1 && return
  as_root apt-get -q update >"$CACHE/apt.log" 2>&1
  apt-cache show rustc-web rust-web-src >/dev/null 2>&1
}

windows_compiler() {
  need x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64-win32
  local flags=""
  if ! windows_has_rustup_target; then
    need_packages rustc-web cargo-web rust-web-src
    # Debian's own commands, also for what they call in turn.
    export PATH=/usr/bin:/bin:/usr/sbin:/sbin RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
    unset RUSTUP_TOOLCHAIN
    windows_standard_library
    flags="--sysroot $sysroot"
  fi
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
  export CARGO_BUILD_TARGET=$WINDOWS_TARGET CARGO_TARGET_DIR=$WINDOWS_CACHE/target CARGO_PROFILE_DEV_DEBUG=0
  export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
  export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS=$flags
}

# Built apart from the project and used as a sysroot: with -Zbuild-std in the project's own build,
# build scripts find no std.
windows_standard_library() {
  local made=$WINDOWS_CACHE/make-std libraries
  sysroot=$WINDOWS_CACHE/sysroot-$(/usr/bin/rustc -V | tr -c 'A-Za-z0-9.\n' _)
  [ ! -e "$sysroot/.done" ] || return 0
  say "building the standard library for Windows (once for each compiler)"
  libraries=$sysroot/lib/rustlib/$WINDOWS_TARGET/lib
  rm -rf "$made" "$WINDOWS_CACHE"/sysroot-*
  mkdir -p "$made/src" "$libraries"
  printf '[package]\nname = "std-parts"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' >"$made/Cargo.toml"
  touch "$made/src/lib.rs"
  (cd "$made" && RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target cargo build --quiet --release --lib \
    --target "$WINDOWS_TARGET" -Zbuild-std=std,panic_unwind,panic_abort,proc_macro,test)
  cp "$made/target/$WINDOWS_TARGET/release/deps/"*.rlib "$libraries"
  rm -rf "$libraries"/libstd_parts-* "$made"
  touch "$sysroot/.done"
}

windows_build() {
  say "cross-building for Windows ($(rustc -V))"
  (cd "$ROOT" && cargo build --locked)
  ls -l "$WINDOWS_CACHE/target/$WINDOWS_TARGET/debug/"*.exe
}

windows_unit_tests() {
  windows_wine
  say "running the unit tests under Wine"
  export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=$wine
  local status=0
  (cd "$ROOT" && timeout 900 cargo test --locked --lib --bins) || status=$?
  # This prefix's server only; a fresh one starts by itself.
  "$(dirname "$wine")/wineserver64" -k 2>/dev/null || true
  return "$status"
}

windows_wine() {
  wine=/usr/lib/wine/wine64
  [ -x "$wine" ] || need wine64:wine64
  [ -x "$wine" ] || wine=$(command -v wine64) || fail "wine64 was installed, but is not to be found"
  export WINEPREFIX=$WINDOWS_CACHE/prefix WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml="
  local system=$WINEPREFIX/drive_c/windows/system32
  if [ ! -e "$system/kernel32.dll" ]; then
    say "making a Wine prefix"
    timeout 180 "$wine" wineboot -u >/dev/null 2>&1 </dev/null || fail "Wine cannot make a prefix in $WINEPREFIX"
  fi
  [ -e "$system/bcryptprimitives.dll" ] || windows_random_shim "$system/bcryptprimitives.dll"
}

# Wine before 9 lacks the library that Rust's std takes its random bytes from. Goes into the test
# prefix, never into what is shipped.
windows_random_shim() {
  x86_64-w64-mingw32-gcc -O2 -shared -o "$1" -x c - -x none -ladvapi32 <<'C'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE p, SIZE_T n) {
  while (n) {
    ULONG part = n > 65536 ? 65536 : (ULONG)n;
    if (!SystemFunction036(p, part)) return FALSE;
    p += part;
    n -= part;
  }
  return TRUE;
}
C
}
