// `npx vite build`: chat.jsx becomes chat.js beside it, which index.html loads.
export default {
  esbuild: { jsx: "automatic" },
  define: { "process.env.NODE_ENV": JSON.stringify("production") },
  build: {
    target: "es2022",
    outDir: ".",
    emptyOutDir: false,
    lib: { entry: "chat.jsx", formats: ["es"], fileName: () => "chat.js" },
  },
};
