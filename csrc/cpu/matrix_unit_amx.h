// The tiles of Intel's AMX: eight registers of 16 rows by 64 bytes. Included inside an anonymous namespace.
//
// Instructions are written out, because the compilers' intrinsics say nothing of the memory that they read and write.

class MatrixUnit {
 public:
  // Every tile has all its rows and columns.
  MatrixUnit() {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) configuration.row_bytes[tile] = 64, configuration.rows[tile] = 16;
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~MatrixUnit() { __asm__ volatile("tilerelease"); }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

  // What was written before is what `load` reads after it.
  static void settle() { __asm__ volatile("" ::: "memory"); }

  template <int kTile>
  void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  void load(const char* from, int64_t row_bytes) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(kTile));
  }
  template <int kTile>
  void store(void* to, int64_t row_bytes) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(kTile) : "memory");
  }
  // Sums, float32 [16][16], += bfloat16 [16][32] times bfloat16 [16][16][2].
  template <int kSums, int kA, int kB>
  void multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
  }
};
